"""A file in a folder of videos: its pictures, or the reason why no clip can be made of it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream
from jaxtyping import UInt8

from gwm.media import video_frames
from gwm.media.video_frames import ColourError

THUMBNAIL = (48, 27)  # width and height: what remains of a picture where only its change counts


class UnusableError(ValueError):
    """A file from which no clip can be made; `reason` is one of `data.footage.reasons`."""

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


def thumbnail(frame: av.VideoFrame) -> UInt8[np.ndarray, "27 48 3"]:
    """The picture as a few averaged dots, as stored. Its colours are only compared: any matrix will do."""
    width, height = THUMBNAIL
    small = frame.reformat(width, height, "rgb24", src_colorspace=Colorspace.ITU709, interpolation="AREA")
    return small.to_ndarray()
