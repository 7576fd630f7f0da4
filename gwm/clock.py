"""One clock for picture and sound. Other rates are resampled at the edges."""

FPS = 24
SAMPLE_RATE = 24_000  # Hz, mono
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
