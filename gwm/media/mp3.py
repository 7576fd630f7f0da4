"""Sound as an MP3, which every browser plays."""

import io

import av
import numpy as np
from jaxtyping import Float

from gwm.media.sound import to_pcm

MP3_RATE = 24_000


def to_mp3(sound: Float[np.ndarray, " t"], sample_rate: int) -> bytes:
    """A mono MP3 file of 24 kHz, whatever the rate of the samples."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=MP3_RATE)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(to_pcm(sound)[None], format="s16", layout="mono")
        frame.sample_rate = sample_rate
        resampler = av.AudioResampler(format="s16p", layout="mono", rate=MP3_RATE)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return buffer.getvalue()
