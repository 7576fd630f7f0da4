"""A file in a folder of videos: its pictures and its sound on their clock, or why no clip can be made of it."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from jaxtyping import Float, Int16

from gwm.clock import SAMPLE_RATE
from gwm.media import video_frames
from gwm.media.sound import find_track, mono_blocks
from gwm.media.video_frames import ColourError


class UnusableError(ValueError):
    """A file from which no clip can be made; `reason` is one of `data.ingest.REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, self.detail)  # it comes back from worker processes


@contextlib.contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """The file as FFmpeg sees it.

    Raises:
        UnusableError: FFmpeg cannot read it, or convert its colours; also what is found wrong while the file is open.
    """
    try:
        # Tags in other encodings than UTF-8 are no reason to lose a video.
        with av.open(str(path.absolute()), metadata_errors="ignore") as container:
            yield container
    except ColourError as error:
        raise UnusableError("colour", str(error)) from error
    except av.error.FFmpegError as error:
        raise UnusableError("unreadable", f"FFmpeg cannot read it ({error.strerror})") from error


def picture_stream(container: InputContainer) -> VideoStream:
    """The first moving picture.

    Raises:
        UnusableError: there is none; the cover of an album does not count.
    """
    stream = video_frames.picture_stream(container)
    if stream is None:
        raise UnusableError("no_picture", "it has no video stream")
    return stream


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
