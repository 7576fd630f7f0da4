"""One training clip as files inside a tar, and back."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import av
import av.error
import numpy as np
import soundfile
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_expander
from webdataset.writer import TarWriter

from data.actions import index
from data.manifest import Shard, read_manifest
from data.storage import Location, open_bytes
from gwm.clock import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from gwm.files.json_text import json_text
from gwm.files.outputs import whole_file
from gwm.media.video import EVERY_CPU

# Visually lossless, and full colour resolution: with 4:2:0, lips at 128 px lose their edge.
REMAKE = "delete the shard and make it again with the command in manifest.json beside it."
CODEC, PIXEL_FORMAT = "libx264", "yuv444p"
CONTINUES = "continues"  # in a clip's info: its reference is the picture right before it
SIGNAL = ".npy"  # suffix of files with numbers for each pixel frame
CODEC_OPTIONS = {"crf": "10", "preset": "veryfast"} | EVERY_CPU


# What the decoders of the parts raise for damaged bytes. OSError: Pillow; SyntaxError: Pillow, of PNG.
DAMAGED = (
    av.error.FFmpegError, soundfile.LibsndfileError, zipfile.BadZipFile, OSError, ValueError, KeyError, EOFError,
    SyntaxError,
)  # fmt: skip
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What the renderer drew, per frame; see `data.performance.Performance` for ranges and units."""

    mouth: Float[np.ndarray, " f"]  # lip opening in [0, 1], 0 is closed
    actions: Float[np.ndarray, "f 52"]
    pose: Float[np.ndarray, "f 3"]
    gaze: Float[np.ndarray, "f 2"]
    agent_speaking: Bool[np.ndarray, " f"]
    user_speaking: Bool[np.ndarray, " f"]
    reference_pose: Float[np.ndarray, "3"] | None = None  # of the head in the reference; None: not known


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One sample: `frames` at 24 fps with 1000 audio samples each, mono at 24 kHz in [-1, 1]."""

    key: str
    frames: UInt8[np.ndarray, "f h w 3"]
    agent: Float[np.ndarray, " t"] | None  # None: not known, which is not silence
    user: Float[np.ndarray, " t"] | None
    reference: UInt8[np.ndarray, "h w 3"]  # the same identity outside the clip
    truth: Truth | None  # None: real footage
    info: dict[str, Any]  # identity and style, and what else its maker knows
    signals: Mapping[str, Float[np.ndarray, "f _"]] = field(default_factory=dict)  # by name: keys, camera, joints

    @property
    def mouth(self) -> Float[np.ndarray, " f"]:
        """Lip opening of a rendered clip, in [0, 1].

        Raises:
            ValueError: the clip is real footage.
        """
        if self.truth is None:
            raise ValueError(f"clip {self.key} must be rendered: nobody knows the truth of real footage. Skip it.")
        return self.truth.mouth

    def acted(self, names: Sequence[str]) -> Float[np.ndarray, "f k"] | None:
        """These facial actions of a rendered clip, in [0, 1], frame by frame; without names, or of a recorded world,
        the signal `action`.

        Raises:
            ValueError: the clip is real footage, or there is no such facial action.
        """
        if not names or (self.truth is None and "action" in self.signals):
            return self.signals.get("action")
        if self.truth is None:
            raise ValueError(
                f"clip {self.key} must be rendered to have actions={list(names)}: nobody knows the truth of real "
                "footage. Set actions=[]."
            )
        return self.truth.actions[:, [index(name) for name in names]]

    @property
    def person(self) -> str:
        """The person in the clip; of footage of unknown people, another one in every clip."""
        return str(self.info.get("identity", self.key))

    @property
    def voices(self) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
        """Voices of agent and user; silence where a voice is unknown."""
        silence = np.zeros(len(self.frames) * SAMPLES_PER_FRAME, np.float32)
        return silence if self.agent is None else self.agent, silence if self.user is None else self.user


def encode_sample(clip: Clip) -> dict[str, Any]:
    """Webdataset sample of a clip: bytes per file name, ready for `write_shard`. What is None gets no file.

    Raises:
        ValueError: an audio stream is not exactly 1000 samples a frame.
    """
    sample: dict[str, Any] = {"__key__": clip.key, "mp4": encode_frames(clip.frames)}
    wanted = len(clip.frames) * SAMPLES_PER_FRAME
    for name, samples in (("agent", clip.agent), ("user", clip.user)):
        if samples is None:
            continue
        if len(samples) != wanted:
            raise ValueError(
                f"{name} has {len(samples)} samples, must have {wanted} for {len(clip.frames)} frames: "
                f"{SAMPLE_RATE} Hz at {FPS} fps is {SAMPLES_PER_FRAME} a frame. Resample or cut before encoding."
            )
        sample[f"{name}.flac"] = encode_audio(samples)
    reference = io.BytesIO()
    Image.fromarray(clip.reference).save(reference, format="png")
    sample["reference.png"] = reference.getvalue()
    if clip.truth is not None:
        truth = io.BytesIO()
        known = {name: getattr(clip.truth, name) for name in Truth.__slots__}
        np.savez_compressed(truth, **{name: values for name, values in known.items() if values is not None})
        sample["truth.npz"] = truth.getvalue()
    for name, values in clip.signals.items():
        signal = io.BytesIO()
        np.save(signal, values)
        sample[f"{name}{SIGNAL}"] = signal.getvalue()
    return sample | {"json": json_text(clip.info).encode("ascii")}


def decode_sample(sample: Mapping[str, Any]) -> Clip:
    """The clip inside a webdataset sample that was read without a decoder.

    Raises:
        ValueError: a part is missing or damaged; the message names shard, sample and part.
    """
    return Clip(
        key=sample["__key__"],
        frames=_part(sample, "mp4", decode_frames),
        agent=_optional_part(sample, "agent.flac", decode_audio),
        user=_optional_part(sample, "user.flac", decode_audio),
        reference=_part(sample, "reference.png", _decode_png),
        truth=_optional_part(sample, "truth.npz", _decode_truth),
        signals=decode_signals(sample),
        info=_part(sample, "json", json.loads),
    )


def decode_signals(sample: Mapping[str, Any]) -> dict[str, Float[np.ndarray, "f _"]]:
    """The signals of a sample by name, without its pictures.

    Raises:
        ValueError: as `decode_sample`.
    """
    names = [name for name in sample if name.endswith(SIGNAL)]
    return {name.removesuffix(SIGNAL): _part(sample, name, lambda data: np.load(io.BytesIO(data))) for name in names}


def _optional_part(sample: Mapping[str, Any], name: str, decode: Callable[[bytes], T]) -> T | None:
    return _part(sample, name, decode) if name in sample else None


def _part(sample: Mapping[str, Any], name: str, decode: Callable[[bytes], T]) -> T:
    where = f"part {name} of sample {sample['__key__']} in {sample.get('__url__', 'a shard')}"
    if name not in sample:
        raise ValueError(f"{where} must be there, and is missing: {REMAKE}")
    try:
        return decode(sample[name])
    except DAMAGED as error:
        raise ValueError(f"{where} ({len(sample[name])} bytes) cannot be read ({error}): {REMAKE}") from error


def _decode_png(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _decode_truth(data: bytes) -> Truth:
    with np.load(io.BytesIO(data)) as truth:
        late = {"reference_pose"} - set(truth.files)  # shards of before 2026-11-29 do not have it
        return Truth(**{name: truth[name] for name in Truth.__slots__ if name not in late})


def encode_frames(frames: UInt8[np.ndarray, "f h w 3"]) -> bytes:
    """H.264 in an mp4; equal frames give equal bytes on every CPU. One thread: x264's bytes depend on their number."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(CODEC, rate=FPS, options=CODEC_OPTIONS)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], PIXEL_FORMAT
        stream.codec_context.thread_count = 1
        # The colours that PyAV's conversion from RGB gives, named so that players need not guess.
        context = stream.codec_context
        context.colorspace, context.color_range = Colorspace.ITU601, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


def decode_frames(data: bytes) -> UInt8[np.ndarray, "f h w 3"]:
    """All frames of a video file in memory, as RGB."""
    with av.open(io.BytesIO(data), "r") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def encode_audio(samples: Float[np.ndarray, " t"]) -> bytes:
    """FLAC, mono, 16 bit."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def decode_audio(data: bytes) -> Float[np.ndarray, " t"]:
    """Samples of a mono file in memory.

    Raises:
        ValueError: another sample rate than the repository's.
    """
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    if rate != SAMPLE_RATE:
        raise ValueError(f"sample_rate={rate} of a stored stream must be {SAMPLE_RATE}: make the shards again.")
    return samples


def write_shard(path: Path, samples: Iterable[dict[str, Any]]) -> Shard:
    """Write samples to a tar whose bytes depend on nothing else; the file appears only when it is complete."""
    count = 0
    with (
        whole_file(path) as partial,
        partial.open("wb") as stream,
        TarWriter(stream, encoder=False, mtime=0) as writer,  # no clock in the bytes
    ):
        for sample in samples:
            writer.write(sample)
            count += 1
    return Shard(name=path.name, bytes=path.stat().st_size, num_samples=count)


def read_samples(folder: Location, split: str) -> Iterator[dict[str, Any]]:
    """Undecoded samples of a split, in the order they were written, from disk or from a URL.

    Raises:
        FileNotFoundError, ValueError: as `read_manifest` does.
    """
    for path in read_manifest(folder).shard_paths(folder, split):
        yield from read_shard(path)


def read_shard(path: Location) -> Iterator[dict[str, Any]]:
    """Undecoded samples of one tar file.

    Raises:
        ValueError: the tar file is damaged.
    """
    with open_bytes(path) as stream:
        try:
            yield from group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}]))
        except (tarfile.TarError, EOFError) as error:
            raise ValueError(f"{path} must be a tar file, and is damaged ({error.args[0]}): {REMAKE}") from error
