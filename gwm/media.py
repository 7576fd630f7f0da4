"""Images, voices and clips from files and to files. Read `read_audio` and `read_image`, then `write_video`.

Here, and nowhere else in gwm, pixels are uint8 RGB and other sample rates exist.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import av.error
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from gwm.outputs import whole_file

SAMPLE_RATE = 24_000  # Hz, mono
BACKGROUND = (128, 128, 128)  # behind what is transparent: neutral, as far from black hair as from white
# Without B frames the first picture's decoding time is 0, so also players that ignore edit lists start it at 0.
VIDEO_OPTIONS = {"crf": "18", "preset": "veryfast", "bf": "0"}
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
    """First audio stream of any file that FFmpeg reads, mono float32 in [-1, 1]; a file without one is refused.

    Raises:
        ValueError: the file is missing, cannot be decoded, has no audio stream or no samples.
    """
    # 32-bit integers, as FFmpeg mixes to mono without changing the loudness only for integers: to float, a voice that
    # is equal on both sides of a stereo file would come out 1.4 times as loud.
    resampler = av.AudioResampler(format="s32", layout="mono", rate=sample_rate)
    parts = []
    with _reading(path, "an audio or video file, such as wav, mp3, m4a or mp4") as container:
        if not container.streams.audio:
            raise ValueError(f"{path} must have an audio stream, has {_streams(container)}. Give a file with sound.")
        for frame in chain(container.decode(audio=0), [None]):  # None flushes the resampler
            if frame is not None:
                frame.pts = None  # containers round times; the samples themselves are contiguous
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
    samples = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    if not len(samples):
        raise ValueError(f"{path} has 0 audio samples, must have at least one. Record or export it again.")
    return samples.astype(np.float32) / 2**31


def read_image(path: str | Path) -> Image.Image:
    """RGB image, upright as its EXIF orientation says, what is transparent in front of neutral grey.

    Raises:
        ValueError: the file is missing, not an image, damaged, or larger than Pillow's limit.
    """
    _check_exists(path, "an image, such as PNG or JPEG")
    try:
        with Image.open(path) as image:
            return to_rgb(image)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        # SyntaxError is what Pillow raises for a damaged PNG.
        raise ValueError(
            f"{path} must be an image that Pillow reads, such as PNG or JPEG ({error}). Save it again as one."
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture as RGB: upright as EXIF says, transparency over grey, 16 bits scaled to 8."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bit grey: Pillow's own conversion would clip at 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    pixels = image.convert("RGBA")
    backdrop = Image.new("RGBA", pixels.size, (*BACKGROUND, 255))
    return Image.alpha_composite(backdrop, pixels).convert("RGB")


def write_video(
    path: str | Path,
    pixel_frames: Iterable[UInt8[np.ndarray, "h w 3"]],
    audio: Float[np.ndarray, " t"],
    *,
    fps: int = 24,
    sample_rate: int = SAMPLE_RATE,
) -> None:
    """A film in which picture and sound start together and last equally long, in the container of its suffix.

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
    sound: AudioStream,
    pixel_frames: Iterable[UInt8[np.ndarray, "h w 3"]],
    audio: Float[np.ndarray, " t"],
) -> None:
    """Each frame with the samples that play during it.

    Every time stamp is counted from 0. The encoder puts 1024 samples of its own before the first (AAC priming), at
    negative times, and the container's edit list skips them.
    """
    rate, step = sound.rate, sound.rate // int(picture.codec_context.framerate)
    for number, pixels in enumerate(pixel_frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
        frame.pts, frame.time_base = number, Fraction(step, rate)
        container.mux(picture.encode(frame))
        samples = audio[number * step : (number + 1) * step]
        samples = np.pad(samples, (0, step - len(samples)))
        part = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        part.sample_rate, part.pts, part.time_base = rate, number * step, Fraction(1, rate)
        container.mux(sound.encode(part))
    container.mux(picture.encode())
    container.mux(sound.encode())


def read_video(path: str | Path) -> tuple[UInt8[np.ndarray, "f h w 3"], float]:
    """All frames of the first video stream, and frames per second.

    Raises:
        ValueError: the file is missing, cannot be decoded, or has no picture.
    """
    with _reading(path, "a video file, such as mp4") as container:
        if not container.streams.video:
            raise ValueError(f"{path} must have a video stream, has {_streams(container)}. Give a file with picture.")
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        rate = container.streams.video[0].average_rate
    if not frames or rate is None:
        raise ValueError(f"{path} has 0 frames, must have at least one. Record or export it again.")
    return np.stack(frames), float(rate)


@contextlib.contextmanager
def _reading(path: str | Path, rule: str) -> Iterator[InputContainer]:
    """An open file; whatever FFmpeg finds wrong while it is read becomes a ValueError with the rule."""
    _check_exists(path, rule)
    try:
        with av.open(str(Path(path).absolute())) as container:  # else x:y.mp4 is a protocol
            yield container
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{path} must be {rule}; FFmpeg cannot read it ({error.strerror}). Convert it first."
        ) from error


def _check_exists(path: str | Path, rule: str) -> None:
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist, must be {rule}. Check the path; relative ones start at {Path.cwd()}.")


def _streams(container: InputContainer) -> str:
    return ", ".join(stream.type for stream in container.streams) or "no stream"
