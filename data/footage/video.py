"""Pictures of any video file, upright, with the moment at which each one is shown."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import av
import av.error
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from jaxtyping import UInt8

NOMINAL_FPS = 25.0  # of a stream that names no rate and has pictures without time stamps
MOST_FAILURES = 50  # in a row, before the rest of a file is given up
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
        UnusableError: FFmpeg cannot read it; also what it finds wrong while the file is open.
    """
    try:
        # Tags in other encodings than UTF-8 are no reason to lose a video.
        with av.open(str(path.absolute()), metadata_errors="ignore") as container:
            yield container
    except av.error.FFmpegError as error:
        raise UnusableError("unreadable", f"FFmpeg cannot read it ({error.strerror})") from error


def picture_stream(container: InputContainer) -> VideoStream:
    """The first moving picture.

    Raises:
        UnusableError: there is none; the cover of an album does not count.
    """
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise UnusableError("no_picture", "it has no video stream")


def pictures(container: InputContainer) -> Iterator[tuple[float, av.VideoFrame]]:
    """Moment in seconds, on the container's clock, and picture; strictly in order of time."""
    stream = picture_stream(container)
    gap = 1 / float(stream.average_rate or NOMINAL_FPS)
    last = -float("inf")
    for frame in decoded(container, stream):
        if not isinstance(frame, av.VideoFrame) or frame.is_corrupt:
            continue
        moment = frame.time
        if moment is None:
            moment = last + gap if last > -float("inf") else 0.0
        if moment > last:
            yield moment, frame
            last = moment


def decoded(container: InputContainer, stream: VideoStream | AudioStream) -> Iterator[av.VideoFrame | av.AudioFrame]:
    """Frames of a stream; what is damaged is left out, and where the file breaks off, they end."""
    packets, failures = container.demux(stream), 0
    while failures < MOST_FAILURES:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            frames = packet.decode()
        except av.error.FFmpegError:
            packets, failures = (
                container.demux(stream),
                failures + 1,
            )  # a generator that raised is over, the file is not
            continue
        failures = 0
        yield from (frame for frame in frames if isinstance(frame, av.VideoFrame | av.AudioFrame))


def upright(frame: av.VideoFrame, pixel_aspect: float) -> UInt8[np.ndarray, "h w 3"]:
    """RGB with square pixels, turned as the camera was; `pixel_aspect` is a stored pixel's width over its height."""
    width = round(frame.width * pixel_aspect)
    rgb = frame.reformat(width=width, height=frame.height, format="rgb24").to_ndarray()
    return np.rot90(rgb, round(frame.rotation / 90))


def pixel_aspect(stream: VideoStream) -> float:
    """Width over height of a stored pixel; 1 where the file does not say."""
    aspect = stream.sample_aspect_ratio
    return float(aspect) if aspect else 1.0


def thumbnail(frame: av.VideoFrame) -> UInt8[np.ndarray, "27 48 3"]:
    """The picture as a few averaged dots, as stored."""
    width, height = THUMBNAIL
    return frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA").to_ndarray()
