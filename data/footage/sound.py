"""Sound of a file on the clock of its picture."""

from collections.abc import Iterator

import av
import numpy as np
from av.container import InputContainer
from jaxtyping import Float, Int16

from data.clock import SAMPLE_RATE
from data.footage.video import decoded

SLACK_SAMPLES = SAMPLE_RATE // 50  # time stamps this close to the running end are rounding; beyond it, there is a gap
SILENCE = 1  # of 32768: a muted track still carries the last bit


def sound_track(container: InputContainer, *, start_s: float, num_samples: int) -> Int16[np.ndarray, " t"] | None:
    """Mono samples from `start_s`, the moment of the first picture, on; None where there is nothing to hear.

    What the track leaves out is silence, so that a late or interrupted track stays in time. A muted track counts as
    none: lips that move to silence would teach the wrong thing.
    """
    if not container.streams.audio:
        return None
    track = np.zeros(num_samples, np.int16)
    cursor = None
    for moment, block in _blocks(container):
        place = None if moment is None else round((moment - start_s) * SAMPLE_RATE)
        if cursor is None or (place is not None and abs(place - cursor) > SLACK_SAMPLES):
            cursor = place or 0
        _put(track, block, cursor)
        cursor += len(block)
    return track if np.abs(track).max(initial=0) > SILENCE else None


def as_floats(samples: Int16[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    return samples.astype(np.float32) / 32768


def _put(track: Int16[np.ndarray, " t"], block: Int16[np.ndarray, " b"], at: int) -> None:
    begin, end = max(at, 0), min(at + len(block), len(track))
    if begin < end:
        track[begin:end] = block[begin - at : end - at]


def _blocks(container: InputContainer) -> Iterator[tuple[float | None, Int16[np.ndarray, " b"]]]:
    """Moment of the first sample, if known, and samples. Integers: mixing to mono in floats changes the loudness."""
    resampler, layout = None, None
    for frame in decoded(container, container.streams.audio[0]):
        assert isinstance(frame, av.AudioFrame), "audio streams hold audio"
        if layout != (layout := (frame.format.name, frame.layout.name, frame.sample_rate)):  # it may change on the way
            yield from _flushed(resampler)
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        moment = frame.time
        frame.pts = None  # a resampler that is told the rounded times inserts and removes samples
        for part in resampler.resample(frame) if resampler else ():
            yield moment, part.to_ndarray()[0]
            moment = None
    yield from _flushed(resampler)


def _flushed(resampler: av.AudioResampler | None) -> Iterator[tuple[None, Int16[np.ndarray, " b"]]]:
    for part in resampler.resample(None) if resampler else ():
        yield None, part.to_ndarray()[0]
