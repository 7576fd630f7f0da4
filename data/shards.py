"""One training clip as files inside a tar, and back."""

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from webdataset.compat import WebDataset
from webdataset.writer import TarWriter

from data.clock import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from data.manifest import Shard, read_manifest

# Visually lossless, and full colour resolution: with 4:2:0, lips at 128 px lose their edge.
CODEC, PIXEL_FORMAT = "libx264", "yuv444p"
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
    agent: Float[np.ndarray, " t"]
    user: Float[np.ndarray, " t"]
    reference: UInt8[np.ndarray, "h w 3"]  # the same identity outside the clip
    truth: Truth
    info: dict[str, Any]  # identity, style, sentence, user_sentence, voice, phonemes, seed


def encode_sample(clip: Clip) -> dict[str, Any]:
    """Webdataset sample of a clip: bytes per file name, ready for `write_shard`.

    Raises:
        ValueError: an audio stream is not exactly 1000 samples a frame.
    """
    wanted = len(clip.frames) * SAMPLES_PER_FRAME
    for name, samples in (("agent", clip.agent), ("user", clip.user)):
        if len(samples) != wanted:
            raise ValueError(
                f"{name} has {len(samples)} samples, must have {wanted} for {len(clip.frames)} frames: "
                f"{SAMPLE_RATE} Hz at {FPS} fps is {SAMPLES_PER_FRAME} a frame. Resample or cut before encoding."
            )
    truth = io.BytesIO()
    np.savez_compressed(truth, **{name: getattr(clip.truth, name) for name in Truth.__slots__})
    reference = io.BytesIO()
    Image.fromarray(clip.reference).save(reference, format="png")
    return {
        "__key__": clip.key,
        "mp4": encode_frames(clip.frames),
        "agent.flac": encode_audio(clip.agent),
        "user.flac": encode_audio(clip.user),
        "reference.png": reference.getvalue(),
        "truth.npz": truth.getvalue(),
        "json": json.dumps(clip.info).encode("ascii"),
    }


def decode_sample(sample: Mapping[str, Any]) -> Clip:
    """The clip inside a webdataset sample that was read without a decoder."""
    with np.load(io.BytesIO(sample["truth.npz"])) as truth:
        return Clip(
            key=sample["__key__"],
            frames=decode_frames(sample["mp4"]),
            agent=decode_audio(sample["agent.flac"]),
            user=decode_audio(sample["user.flac"]),
            reference=np.asarray(Image.open(io.BytesIO(sample["reference.png"])).convert("RGB")),
            truth=Truth(**{name: truth[name] for name in Truth.__slots__}),
            info=json.loads(sample["json"]),
        )


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
    with open(temporary, "wb") as stream:
        writer = TarWriter(stream, encoder=False, mtime=0)  # no clock in the bytes
        for sample in samples:
            writer.write(sample)
            count += 1
        writer.close()
    os.replace(temporary, path)
    return Shard(name=path.name, bytes=path.stat().st_size, num_samples=count)


def read_samples(folder: Path | str, split: str) -> Iterator[dict[str, Any]]:
    """Undecoded samples of a split, in the order they were written. Raises as `read_manifest` does."""
    folder = Path(folder)
    paths = read_manifest(folder).shard_paths(folder, split)
    yield from WebDataset([str(path) for path in paths], shardshuffle=False, empty_check=False)
