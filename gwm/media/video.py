"""Voices and clips from files and to files: `read_audio`, `read_video`, `write_video`. Pictures: `gwm.media.images`.

Here, and nowhere else in gwm, pixels are uint8 RGB and other sample rates exist.
"""

import contextlib
import functools
import io
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path

import av
import av.error
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from jaxtyping import Float, Int, UInt8

from gwm.clock import SAMPLE_RATE
from gwm.files.checks import check_file, seen_kind
from gwm.files.outputs import whole_file
from gwm.media.decoding import Damage
from gwm.media.sound import find_track, mono_blocks
from gwm.media.video_frames import NOMINAL_FPS, ColourError, RgbReader, picture_stream, pictures, pixel_aspect

log = logging.getLogger(__name__)

OGG_PAGE, OGG_HEADER_BYTES = b"OggS", 27
# On CPUs with AVX-512, x264 reads memory that it never wrote: equal frames become different files there, even with one
# thread. With this option it gives the result of its C code on every CPU, and is as fast (measured at 48 to 128 px).
EVERY_CPU = {"x264-params": "cpu-independent=1"}
# Without B frames the first picture's decoding time is 0, so also players that ignore edit lists start it at 0.
VIDEO_OPTIONS = {"crf": "18", "preset": "veryfast", "bf": "0"} | EVERY_CPU
AUDIO_BITS_PER_SECOND = 96_000
# faststart: players begin before the file has arrived. Timescale: durations to the sample, not to the millisecond.
CONTAINER_OPTIONS = {"movflags": "faststart", "movie_timescale": "24000"}
# Two-pass quality of VP9 needs a bit rate of 0; cpu-used 4 is ten times as fast as the default.
VP9_OPTIONS = {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}


@dataclass(frozen=True, slots=True)
class Container:
    """A file format, by FFmpeg's name, and the codecs inside it."""

    name: str
    picture: str
    sound: str
    picture_options: dict[str, str]
    options: dict[str, str]


_MP4 = Container("mp4", "libx264", "aac", VIDEO_OPTIONS, CONTAINER_OPTIONS)
CONTAINERS = {
    ".mp4": _MP4,
    ".m4v": _MP4,
    ".mov": replace(_MP4, name="mov"),
    ".mkv": replace(_MP4, name="matroska", options={}),
    ".webm": Container("webm", "libvpx-vp9", "libopus", VP9_OPTIONS, {}),
}


def read_audio(path: str | Path, *, sample_rate: int = SAMPLE_RATE) -> Float[np.ndarray, " t"]:
    """All of `sound_blocks`."""
    return np.concatenate(list(sound_blocks(path, sample_rate=sample_rate)))


def sound_blocks(path: str | Path, *, sample_rate: int = SAMPLE_RATE) -> Iterator[Float[np.ndarray, " b"]]:
    """Sound of any file that FFmpeg reads, mono float32 in [-1, 1]; what was lost, mixed or chosen is logged.

    Of several tracks it is the default one, or the first that is not silent. Damaged packets are skipped.

    Raises:
        ValueError: the file is missing, cannot be decoded, has no audio stream, no samples, or none that are numbers in
            range.
    """
    rule = "an audio or video file, such as wav, mp3, m4a or mp4"
    check_file(path, rule)
    num_samples, notes = 0, list[str]()
    for link in ogg_links(Path(path)):
        opener = functools.partial(reading, link, rule, name=path)
        with opener() as container:
            if not container.streams.audio:
                raise ValueError(
                    f"{path} must have an audio stream, has {_streams(container)}. Give a file with sound."
                )
        try:
            track = find_track(opener)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if track is not None:
            for _, block in mono_blocks(opener, track, sample_rate):
                num_samples += len(block)
                yield block
            notes += [note for note in track.notes if note not in notes]
    if not num_samples:
        raise ValueError(f"{path} has 0 audio samples, must have at least one. Record or export it again.")
    for note in notes:
        log.warning("%s: %s", path, note)


def ogg_links(path: Path) -> list[Path | bytes]:
    """The parts of a chained Ogg file, such as a recorded radio stream, whose parts may differ in rate and channels;
    the path itself of any other file. FFmpeg reads the first part of a chain alone.

    Source: RFC 3533, Sec. 4: a part begins with a page of type "beginning of stream" behind other pages.
    """
    with path.open("rb") as file:
        if file.read(4) != OGG_PAGE:
            return [path]
    data = path.read_bytes()
    starts, at, begins = list[int](), data.find(OGG_PAGE), False
    while 0 <= at < len(data) - OGG_HEADER_BYTES:
        first = bool(data[at + 5] & 2)
        if first and not begins:
            starts.append(at)
        begins, segments = first, data[at + 26]
        at = data.find(OGG_PAGE, at + OGG_HEADER_BYTES + sum(data[at + 27 : at + 27 + segments]))
    return [path] if len(starts) < 2 else [data[a:b] for a, b in pairwise([*starts, len(data)])]


def write_video(
    path: str | Path,
    pixel_frames: Iterable[UInt8[np.ndarray, "h w 3"]],
    audio: Float[np.ndarray, " t"] | None,
    *,
    fps: int = 24,
    sample_rate: int = SAMPLE_RATE,
) -> None:
    """A film in which picture and sound start together and last equally long, in the container of its suffix; without
    `audio` it has no sound.

    Frames may come from a generator and are encoded as they come. Sound is cut, or continued with silence, at the end
    of the last frame. The file appears only when it is complete; an existing one stays until then.

    Raises:
        ValueError: an unknown suffix, no frame, an odd side, or a sample rate that is not whole samples a frame.
        OSError: the file cannot be written, such as on a full disk; nothing is left of it.
    """
    kind = container_of(path)
    if sample_rate % fps:
        raise ValueError(f"sample_rate={sample_rate} must be a multiple of fps={fps}: a frame is whole samples.")
    frames = iter(pixel_frames)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"pixel_frames of {path} must have at least one frame, has 0.")
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"frames of {height} x {width} must have even sides: H.264 halves the colours. Crop or pad.")
    # Absolute, as FFmpeg takes what stands before a colon for a protocol.
    with whole_file(Path(path).absolute()) as partial:
        with av.open(str(partial), "w", format=kind.name, options=kind.options) as container:
            picture = _add_picture(container, kind, height, width, fps)
            if audio is None:
                return _mux(container, picture, None, chain([first], frames), np.zeros(0, np.float32))
            sound = container.add_stream(kind.sound, rate=sample_rate, layout="mono", bit_rate=AUDIO_BITS_PER_SECOND)
            assert isinstance(sound, AudioStream)
            _mux(container, picture, sound, chain([first], frames), audio.astype(np.float32))


def container_of(path: str | Path) -> Container:
    """What a film of this name is written as.

    Raises:
        ValueError: the suffix is none of those that can be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in CONTAINERS:
        raise ValueError(f"out={path} must end in {', '.join(CONTAINERS)}: the suffix says how the film is written.")
    return CONTAINERS[suffix]


def _add_picture(container: OutputContainer, kind: Container, height: int, width: int, fps: int) -> VideoStream:
    stream = container.add_stream(kind.picture, rate=fps, options=kind.picture_options)
    assert isinstance(stream, VideoStream)
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    # Named, as players guess the colours of small files in different ways.
    context = stream.codec_context
    context.colorspace, context.color_primaries = Colorspace.ITU709, ColorPrimaries.BT709
    context.color_trc, context.color_range = ColorTrc.BT709, ColorRange.MPEG
    return stream


def _mux(
    container: OutputContainer,
    picture: VideoStream,
    sound: AudioStream | None,
    pixel_frames: Iterable[UInt8[np.ndarray, "h w 3"]],
    audio: Float[np.ndarray, " t"],
) -> None:
    """Each frame with the samples that play during it.

    Every time stamp is counted from 0. The encoder puts 1024 samples of its own before the first (AAC priming), at
    negative times, and the container's edit list skips them.
    """
    fps = int(picture.codec_context.framerate)
    rate = fps if sound is None else sound.rate
    step = rate // fps
    for number, pixels in enumerate(pixel_frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
        frame.pts, frame.time_base = number, Fraction(step, rate)
        container.mux(picture.encode(frame))
        if sound is None:
            continue
        samples = audio[number * step : (number + 1) * step]
        samples = np.pad(samples, (0, step - len(samples)))
        part = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        part.sample_rate, part.pts, part.time_base = rate, number * step, Fraction(1, rate)
        container.mux(sound.encode(part))
    container.mux(picture.encode())
    if sound is not None:
        container.mux(sound.encode())


def read_video(path: str | Path) -> tuple[UInt8[np.ndarray, "f h w 3"], float]:
    """All frames of the first video stream, upright and in the colours of BT.709, and frames per second.

    Pictures that are shown for unequal times, as telephones record them, are put on a steady clock of their mean rate.

    Raises:
        ValueError: the file is missing, cannot be decoded, has no picture, or colours that cannot be converted.
    """
    rule = "a video file, such as mp4"
    check_file(path, rule)
    damage, moments, frames = Damage(), list[float](), list[np.ndarray]()
    with reading(path, rule, name=path) as container:
        stream = picture_stream(container)
        if stream is None:
            raise ValueError(f"{path} must have a video stream, has {_streams(container)}. Give a file with picture.")
        to_rgb, declared = RgbReader(pixel_aspect(stream)), float(stream.average_rate or NOMINAL_FPS)
        try:
            for moment, frame in pictures(container, stream, damage):
                moments.append(moment)
                frames.append(to_rgb(frame))
        except ColourError as error:
            raise ValueError(f"{path}: {error}") from error
    if not frames:
        raise ValueError(f"{path} has 0 frames, must have at least one. Record or export it again.")
    for note in damage.notes:
        log.warning("%s: %s", path, note)
    shown, fps = steady(np.array(moments) - moments[0], declared)
    return np.stack([frames[index] for index in shown]), fps


def steady(times_s: Float[np.ndarray, " n"], declared_fps: float) -> tuple[Int[np.ndarray, " f"], float]:
    """Which picture is shown in the middle of each frame of a steady clock, and the rate of that clock: the declared
    one where the pictures keep it to 1 %, else their mean rate."""
    if len(times_s) < 2:
        return np.zeros(1, int), declared_fps
    mean = (len(times_s) - 1) / float(times_s[-1])
    fps = declared_fps if abs(mean - declared_fps) < 0.01 * declared_fps else mean
    num_frames = max(1, round(float(times_s[-1]) * fps) + 1)
    middles = (np.arange(num_frames) + 0.5) / fps
    return np.searchsorted(times_s, middles, side="right") - 1, fps


@contextlib.contextmanager
def reading(source: str | Path | bytes, rule: str, *, name: str | Path) -> Iterator[InputContainer]:
    """An open file; whatever FFmpeg finds wrong while it is read becomes a ValueError with the rule."""
    try:
        # An absolute path: FFmpeg takes x:y.mp4 for a protocol. Tags in other encodings than UTF-8 do not matter.
        where = io.BytesIO(source) if isinstance(source, bytes) else str(Path(source).absolute())
        with av.open(where, "r", metadata_errors="ignore") as container:
            yield container
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{name} must be {rule}; FFmpeg cannot read it ({error.strerror}).{seen_kind(name)} Convert it first."
        ) from error


def _streams(container: InputContainer) -> str:
    return ", ".join(stream.type for stream in container.streams) or "no stream"
