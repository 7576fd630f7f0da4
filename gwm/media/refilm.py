"""A film made from another one: the same pictures at the same times, parts of them drawn anew, and another sound.

Pictures stay as the file stores them (`gwm.media.stored_picture`).
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream
from jaxtyping import Float

from gwm.files.checks import check_file
from gwm.files.outputs import whole_file
from gwm.media.decoding import Damage
from gwm.media.video import EVERY_CPU, VP9_OPTIONS, container_of, reading
from gwm.media.video_frames import (
    NOMINAL_FPS,
    ColourError,
    RgbReader,
    display_matrix,
    orientation,
    picture_stream,
    pictures,
    pixel_aspect,
)

# What was encoded once is encoded again: more exactly than films that were never seen before (`gwm.media.video`).
QUALITY = {
    "libx264": {"crf": "10", "preset": "veryfast", "bf": "0"} | EVERY_CPU,
    "libvpx-vp9": VP9_OPTIONS | {"crf": "12"},
}
# Where the rest must stay within 45 dB of what it was, also in small pictures of many colours.
FINEST = {
    "libx264": QUALITY["libx264"] | {"crf": "4"},
    "libvpx-vp9": QUALITY["libvpx-vp9"] | {"crf": "5"},
}
SOUND_RATE = 48_000
SOUND_BITS_PER_SECOND = 160_000


@dataclass(slots=True)
class Film:
    """An open video. Iterate once: moments in seconds from the first picture, and pictures as they are stored."""

    path: str | Path
    container: InputContainer
    stream: VideoStream
    damage: Damage = field(default_factory=Damage)
    # Of the first picture. PyAV must not be asked for it again where FFmpeg has copied a picture: what it remembers of
    # its side data is gone then.
    matrix: bytes | None = None
    turn: tuple[bool, int] = (False, 0)

    def __iter__(self) -> Iterator[tuple[float, av.VideoFrame]]:
        start_s = None
        for moment_s, frame in pictures(self.container, self.stream, self.damage):
            if start_s is None:
                start_s, self.matrix, self.turn = moment_s, display_matrix(frame), orientation(frame)
            yield moment_s - start_s, frame

    @property
    def fps(self) -> Fraction:
        """Declared, or mean, or nominal where the file says nothing."""
        return self.stream.average_rate or Fraction(NOMINAL_FPS)

    @property
    def declared_s(self) -> float | None:
        """Length, where the file says it."""
        stream = self.stream
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        return self.container.duration / av.time_base if self.container.duration else None

    def rgb_reader(self) -> RgbReader:
        """Pictures as upright RGB with square pixels, in the file's own curve and gamut."""
        return RgbReader(pixel_aspect(self.stream), as_stored=True)


@contextlib.contextmanager
def open_film(path: str | Path) -> Iterator[Film]:
    """A video to be made anew.

    Raises:
        ValueError: the file is missing, cannot be decoded, has no picture, or colours that cannot be converted; also
            what is found wrong while it is read.
    """
    rule = "a video file, such as mp4"
    check_file(path, rule)
    with reading(path, rule, name=path) as container:
        stream = picture_stream(container)
        if stream is None:
            kinds = ", ".join(s.type for s in container.streams) or "no stream"
            raise ValueError(f"{path} must have a video stream, has {kinds}. Give a file with picture.")
        try:
            yield Film(path, container, stream)
        except ColourError as error:
            raise ValueError(f"{path}: {error}") from error


def refilm(
    path: str | Path,
    like: Film,
    made: Iterator[tuple[float, av.VideoFrame]],
    sound: Iterator[Float[np.ndarray, " b"]] | None,
    *,
    quality: Mapping[str, dict[str, str]] = QUALITY,
) -> float:
    """Write pictures at their moments, with sound at `SOUND_RATE`, in the container of the path's suffix; the length in
    seconds. Rate, depth, colours, shape of pixels and orientation are those of the film that they are `like`. Sound is
    cut, or continued with silence, where the last picture ends; None: the film has none. quality: of each codec, as
    QUALITY or FINEST.

    Pictures may come from a generator, and are encoded as they come. The file appears only when it is complete.

    Raises:
        ValueError: an unknown suffix, no picture, or pictures of several sizes.
        OSError: the file cannot be written; nothing is left of it.
    """
    kind = container_of(path)
    with whole_file(Path(path).absolute()) as partial:
        with av.open(str(partial), "w", format=kind.name, options=kind.options) as container:
            writer = _Writer(container, (kind.picture, kind.sound), quality[kind.picture], like, sound)
            for moment_s, frame in made:
                writer.add(moment_s, frame)
            if writer.picture is None:
                raise ValueError(f"{like.path} has 0 frames, must have at least one. Record or export it again.")
            return writer.end()


class _Writer:
    """Picture by picture, each with the sound that plays until the next."""

    def __init__(
        self,
        container: OutputContainer,
        codecs: tuple[str, str],
        options: dict[str, str],
        like: Film,
        sound: Iterator[Float[np.ndarray, " b"]] | None,
    ) -> None:
        self.container, self.codecs, self.options, self.like, self.blocks = container, codecs, options, like, sound
        self.picture: VideoStream | None = None
        self.sound: SoundTrack | None = None
        self.last_s, self.gap_s = 0.0, 1 / float(like.fps)
        self.held: av.VideoFrame | None = None
        self.lengths = dict[int, int]()  # of pictures that are being encoded, by their times

    def add(self, moment_s: float, frame: av.VideoFrame) -> None:
        if self.picture is None:
            self.picture = add_picture(self.container, self.codecs[0], self.like, frame, self.options)
            if self.like.matrix is not None:
                turn(self.picture, self.like.matrix)
            if self.blocks is not None:
                self.sound = SoundTrack(self.container, self.codecs[1], self.blocks)
        check_size(self.like, (self.picture.width, self.picture.height), (frame.width, frame.height))
        if self.held is not None:
            self._encode(self.held, self.last_s, moment_s - self.last_s)
            self.gap_s = moment_s - self.last_s
        self.held, self.last_s = frame, moment_s

    def end(self) -> float:
        """Write what is held; the length in seconds."""
        assert self.held is not None and self.picture is not None
        self._encode(self.held, self.last_s, self.gap_s)
        self._mux(self.picture.encode())
        if self.sound is not None:
            self.sound.end()
        return self.last_s + self.gap_s

    def _encode(self, frame: av.VideoFrame, moment_s: float, length_s: float) -> None:
        assert self.picture is not None
        base = self.picture.codec_context.time_base
        frame.pts, frame.time_base = round(moment_s / base), base
        self.lengths[frame.pts] = max(1, round((moment_s + length_s) / base) - frame.pts)
        self._mux(self.picture.encode(frame))
        if self.sound is not None:
            self.sound.play_until(moment_s + length_s)

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            if packet.pts is not None:  # FFmpeg's own guess of how long the last picture stays is another
                packet.duration = self.lengths.pop(packet.pts, packet.duration)
            self.container.mux(packet)


def add_picture(
    container: OutputContainer, codec: str, like: Film, frame: av.VideoFrame, options: dict[str, str] | None = None
) -> VideoStream:
    """A stream for pictures such as this one, with rate, times, colours and shape of pixels of a film.

    options: of the codec; None: as QUALITY has them."""
    stream = container.add_stream(codec, rate=like.fps, options=QUALITY[codec] if options is None else options)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
    context = stream.codec_context
    context.time_base = time_base(like)
    context.colorspace, context.color_primaries = frame.colorspace, frame.color_primaries
    context.color_trc, context.color_range = frame.color_trc, frame.color_range
    if like.stream.sample_aspect_ratio:
        context.sample_aspect_ratio = like.stream.sample_aspect_ratio
    return stream


def time_base(like: Film) -> Fraction:
    """The unit of a film's times."""
    return like.stream.time_base or 1 / like.fps


def turn(stream: VideoStream, matrix: bytes) -> None:
    """Give a stream the orientation of `Film.matrix`."""
    stream.set_display_matrix(np.frombuffer(matrix, np.int32).tolist())


def check_size(like: Film, size: tuple[int, int], now: tuple[int, int]) -> None:
    """Refuse pictures of several sizes, each as width and height.

    Raises:
        ValueError: they differ.
    """
    if size != now:
        raise ValueError(
            f"{like.path} changes its size from {size[0]}x{size[1]} to {now[0]}x{now[1]} px on the way, must keep it. "
            "Convert it first."
        )


class SoundTrack:
    """The sound of a film, written as far as its pictures are; silence where it has ended."""

    def __init__(self, container: OutputContainer, codec: str, blocks: Iterator[Float[np.ndarray, " b"]]) -> None:
        stream = container.add_stream(codec, rate=SOUND_RATE, layout="mono")
        assert isinstance(stream, AudioStream)
        stream.bit_rate = SOUND_BITS_PER_SECOND
        self.container, self.stream, self.blocks = container, stream, blocks
        self.waiting = np.zeros(0, np.float32)  # sound that was read and not yet written
        self.written = 0  # samples

    def play_until(self, moment_s: float) -> None:
        samples = self._next_samples(round(moment_s * SOUND_RATE) - self.written)
        if not len(samples):
            return
        part = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        part.sample_rate, part.pts, part.time_base = SOUND_RATE, self.written, Fraction(1, SOUND_RATE)
        self.written += len(samples)
        self.container.mux(self.stream.encode(part))

    def end(self) -> None:
        self.container.mux(self.stream.encode())

    def _next_samples(self, count: int) -> Float[np.ndarray, " t"]:
        """Silence where the sound has ended."""
        parts, have = [self.waiting], len(self.waiting)
        while have < count and self.blocks is not None and (block := next(self.blocks, None)) is not None:
            parts.append(block)
            have += len(block)
        joined = np.concatenate(parts).astype(np.float32)
        taken, self.waiting = joined[:count], joined[count:]
        return np.pad(taken, (0, count - len(taken)))
