"""One training clip as files inside a tar, and back."""

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_expander
from webdataset.writer import TarWriter

from data.actions import index
from data.clock import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from data.manifest import Shard, read_manifest
from data.storage import Location, open_bytes

# Visually lossless, and full colour resolution: with 4:2:0, lips at 128 px lose their edge.
CODEC, PIXEL_FORMAT = "libx264", "yuv444p"
SIGNAL = ".npy"  # suffix of files with numbers for each pixel frame
CODEC_OPTIONS = {"crf": "10", "preset": "veryfast"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What the renderer was told, per frame; see `data.performance.Performance` for ranges and units."""

    mouth: Float[np.ndarray, " f"]  # lip opening in [0, 1], 0 is closed
    actions: Float[np.ndarray, "f 52"]
    pose: Float[np.ndarray, "f 3"]
    gaze: Float[np.ndarray, "f 2"]
    agent_speaking: Bool[np.ndarray, " f"]
    user_speaking: Bool[np.ndarray, " f"]


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
        """These facial actions of a rendered clip, in [0, 1], frame by frame; without names, the signal `action`.

        Raises:
            ValueError: the clip is real footage, or there is no such facial action.
        """
        if not names:
            return self.signals.get("action")
        if self.truth is None:
            raise ValueError(
                f"clip {self.key} must be rendered to tell actions={list(names)}: nobody knows the truth of real "
                "footage. Set actions=[]."
            )
        return self.truth.actions[:, [index(name) for name in names]]

    @property
    def voices(self) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
        """Agent and user as a server would hear them: silence where nothing is known."""
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
        np.savez_compressed(truth, **{name: getattr(clip.truth, name) for name in Truth.__slots__})
        sample["truth.npz"] = truth.getvalue()
    for name, values in clip.signals.items():
        signal = io.BytesIO()
        np.save(signal, values)
        sample[f"{name}{SIGNAL}"] = signal.getvalue()
    return sample | {"json": json.dumps(clip.info).encode("ascii")}


def decode_sample(sample: Mapping[str, Any]) -> Clip:
    """The clip inside a webdataset sample that was read without a decoder."""
    agent, user = (decode_audio(sample[name]) if name in sample else None for name in ("agent.flac", "user.flac"))
    return Clip(
        key=sample["__key__"],
        frames=decode_frames(sample["mp4"]),
        agent=agent,
        user=user,
        reference=np.asarray(Image.open(io.BytesIO(sample["reference.png"])).convert("RGB")),
        truth=_decode_truth(sample["truth.npz"]) if "truth.npz" in sample else None,
        signals={
            name.removesuffix(SIGNAL): np.load(io.BytesIO(data))
            for name, data in sample.items()
            if name.endswith(SIGNAL)
        },
        info=json.loads(sample["json"]),
    )


def _decode_truth(data: bytes) -> Truth:
    with np.load(io.BytesIO(data)) as truth:
        return Truth(**{name: truth[name] for name in Truth.__slots__})


def encode_frames(frames: UInt8[np.ndarray, "f h w 3"]) -> bytes:
    """H.264 in an mp4. One thread, as x264's bytes depend on their number."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(CODEC, rate=FPS, options=CODEC_OPTIONS)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], PIXEL_FORMAT
        stream.codec_context.thread_count = 1
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
    temporary = path.with_name(path.name + ".tmp")
    count = 0
    with open(temporary, "wb") as stream, TarWriter(stream, encoder=False, mtime=0) as writer:  # no clock in the bytes
        for sample in samples:
            writer.write(sample)
            count += 1
    os.replace(temporary, path)
    return Shard(name=path.name, bytes=path.stat().st_size, num_samples=count)


def read_samples(folder: Location, split: str) -> Iterator[dict[str, Any]]:
    """Undecoded samples of a split, in the order they were written, from disk or from a URL.

    Raises:
        FileNotFoundError, ValueError: as `read_manifest` does.
    """
    for path in read_manifest(folder).shard_paths(folder, split):
        yield from read_shard(path)


def read_shard(path: Location) -> Iterator[dict[str, Any]]:
    """Undecoded samples of one tar file."""
    with open_bytes(path) as stream:
        yield from group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}]))
