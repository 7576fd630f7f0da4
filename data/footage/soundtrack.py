"""The sound of a file on the clock of its picture."""

import functools
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int16

from data.footage.video_file import UnusableError, opened
from gwm.clock import SAMPLE_RATE
from gwm.media.sound import find_track, mono_blocks

SLACK_SAMPLES = SAMPLE_RATE // 50  # time stamps this close to the running end are rounding; beyond it, there is a gap
FULL_SCALE = 32767


def sound_track(path: Path, *, start_s: float, num_samples: int) -> tuple[Int16[np.ndarray, " t"] | None, list[str]]:
    """Mono samples from `start_s` on, the moment of the first picture, or None where the file has no sound; and
    what a person should know about them.

    What the track leaves out is silence, so that a late or interrupted track stays in time. A muted track counts as
    none: lips that move to silence would teach the wrong thing.

    Raises:
        UnusableError: most of the track is damaged, or its samples are no numbers in [-1, 1].
    """
    opener = functools.partial(opened, path)
    try:
        found = find_track(opener)
    except UnusableError:
        raise
    except ValueError as error:
        raise UnusableError("bad_sound", str(error)) from error
    if found is None or found.silent:
        return None, found.notes if found else []
    track = np.zeros(num_samples, np.int16)
    cursor = None
    for moment, block in mono_blocks(opener, found, SAMPLE_RATE):
        place = None if moment is None else round((moment - start_s) * SAMPLE_RATE)
        if cursor is None or (place is not None and abs(place - cursor) > SLACK_SAMPLES):
            cursor = place or 0
        _put(track, (block * FULL_SCALE).round().astype(np.int16), cursor)
        cursor += len(block)
    return track if track.any() else None, found.notes


def as_floats(samples: Int16[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    return samples.astype(np.float32) / FULL_SCALE


def _put(track: Int16[np.ndarray, " t"], block: Int16[np.ndarray, " b"], at: int) -> None:
    begin, end = max(at, 0), min(at + len(block), len(track))
    if begin < end:
        track[begin:end] = block[begin - at : end - at]
