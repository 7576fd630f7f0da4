"""Encoded clips, of data sets that may be larger than memory: found by an index, read when asked for, kept as long as
there is room.

Beside every shard lies its index, made when the shard is: where each clip begins, and what must be known of all clips
before the first batch.
"""

import io
import os
import tarfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from data.manifest import read_manifest
from gwm.condition.audio import chunk_windows
from gwm.config import AudioConfig

MEMBER = "latents.npz"  # of a sample
INDEX_SUFFIX = ".index.npz"
OF_THE_CLIP = ("reference", "text", "image", "given_reference")  # as a whole, not of its frames
NO_TEXT = "no_text.npy"  # what the text encoder says of the empty caption


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """Clips of one shard, in the order in which they were written."""

    bytes: int  # of the shard that it is of
    offset: Int[np.ndarray, " n"]  # bytes before a clip's arrays
    size: Int[np.ndarray, " n"]  # bytes
    num_frames: Int[np.ndarray, " n"]  # latent frames that have their whole audio window inside the clip
    action_dim: Int[np.ndarray, " n"]  # numbers per latent frame; 0: the clip has no actions
    motion: Float[np.ndarray, "h w"]  # summed over clips


def write_index(shard: Path, audio: AudioConfig) -> ShardIndex:
    """Look through a shard and leave its index beside it."""
    rows, motion = [], []
    with tarfile.open(shard) as tar:
        for member in tar:
            if not member.name.endswith(f".{MEMBER}"):
                continue
            file = tar.extractfile(member)
            assert file is not None, f"{member.name} of {shard} is no file"
            clip = decode_arrays(file.read())
            stride = len(clip["agent"]) // len(clip["latents"])
            heard = heard_frames(len(clip["latents"]), stride, audio)
            actions = clip["action"].shape[1] * stride if "action" in clip else 0
            rows.append((member.offset_data, member.size, max(0, heard.stop - heard.start), actions))
            motion.append(clip["motion"].double().numpy())
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    index = ShardIndex(
        bytes=shard.stat().st_size,
        offset=columns[0],
        size=columns[1],
        num_frames=columns[2],
        action_dim=columns[3],
        motion=np.sum(motion, axis=0) if motion else np.zeros((0, 0)),
    )
    path = _index_path(shard)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        np.savez(stream, **asdict(index))  # type: ignore[arg-type]
    os.replace(temporary, path)
    return index


def read_index(shard: Path, audio: AudioConfig) -> ShardIndex:
    """The index beside a shard; made now where it is missing or of another file than what lies there."""
    path = _index_path(shard)
    if path.is_file():
        with np.load(path) as arrays:
            fields: dict[str, Any] = dict(arrays)
        fields["bytes"] = int(fields["bytes"])
        found = ShardIndex(**fields)
        if found.bytes == shard.stat().st_size:
            return found
    return write_index(shard, audio)


def _index_path(shard: Path) -> Path:
    return shard.with_name(f"{shard.stem}{INDEX_SUFFIX}")


class EncodedClips(Sequence[dict[str, Tensor]]):
    """Clips of a split, each with the audio windows of its latent frames; read from the shards when asked for.

    `memory_bytes` of them, the last ones asked for, stay in memory; which they are changes no batch.
    """

    def __init__(self, folder: Path, split: str, audio: AudioConfig, *, memory_bytes: int) -> None:
        """
        Raises:
            FileNotFoundError, ValueError: as `read_manifest` does, or the split is empty.
        """
        self.audio, self.memory_bytes = audio, memory_bytes
        self._shards = [Path(path) for path in read_manifest(folder).shard_paths(folder, split)]
        self._indices = [read_index(shard, audio) for shard in self._shards]
        self._ends = np.cumsum([len(index.offset) for index in self._indices])
        if not len(self):
            raise ValueError(f"split={split!r} of {folder} must have clips to train on, and has none.")
        filled = [index for index in self._indices if len(index.offset)]
        self.motion = torch.from_numpy(sum(index.motion for index in filled) / len(self)).float()
        self.shortest = min(int(index.num_frames.min()) for index in filled)
        self.action_dim = max(int(index.action_dim.max()) for index in filled)
        self._kept: OrderedDict[int, dict[str, Tensor]] = OrderedDict()
        self.kept_bytes = 0

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, number: int) -> dict[str, Tensor]:  # type: ignore[override]  # no slices
        if not 0 <= number < len(self):
            raise IndexError(f"number={number} must be in [0, {len(self)}), the clips of these shards.")
        clip = self._kept.pop(number, None)
        if clip is None:
            clip = self._read(number)
            self.kept_bytes += _bytes(clip)
        self._kept[number] = clip
        while self.kept_bytes > self.memory_bytes:
            self.kept_bytes -= _bytes(self._kept.popitem(last=False)[1])
        return clip

    def _read(self, number: int) -> dict[str, Tensor]:
        shard = int(np.searchsorted(self._ends, number, side="right"))
        index = self._indices[shard]
        at = number - int(self._ends[shard])  # counted from the shard's end
        with self._shards[shard].open("rb") as stream:
            stream.seek(index.offset[at])
            clip = with_windows(decode_arrays(stream.read(index.size[at])), self.audio)
        if self.action_dim and "action" not in clip:  # where some clips have actions, the others do nothing
            clip["action"] = clip["agent"].new_zeros(len(clip["x0"]), self.action_dim)
        return clip


def _bytes(clip: dict[str, Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in clip.values())


def decode_arrays(data: bytes) -> dict[str, Float[Tensor, "..."]]:
    """An encoded clip in float32: latents, reference, agent, user, motion and, where known, text, action and what an
    image-to-video model is given."""
    with np.load(io.BytesIO(data)) as arrays:
        return {name: torch.from_numpy(arrays[name]).float() for name in arrays}


def heard_frames(num_frames: int, stride: int, audio: AudioConfig) -> slice:
    """Those of a clip's latent frames, of `stride` pixel frames each, whose audio windows lie inside it."""
    before, after = -(-audio.left_frames // stride), -(-audio.lookahead_frames // stride)
    return slice(before, num_frames - after)


def with_windows(clip: dict[str, Tensor], audio: AudioConfig) -> dict[str, Tensor]:
    """The latent frames of a clip whose audio windows lie inside it, as x0, with those windows."""
    latents = clip["latents"]
    stride = len(clip["agent"]) // len(latents)
    heard = heard_frames(len(latents), stride, audio)
    skip, x0 = heard.start * stride - audio.left_frames, latents[heard]
    windows = {
        name: chunk_windows(clip[name][None, skip:], audio, temporal_stride=stride)[0, : len(x0)]
        for name in ("agent", "user")
    }
    found = {"x0": x0, **windows}
    if "action" in clip:
        found["action"] = clip["action"][heard.start * stride :][: len(x0) * stride].reshape(len(x0), -1)
    if "given" in clip:  # of the image's clip, not of this one: it begins with the image, wherever this one is cut
        found["given"] = clip["given"][: len(x0)]
    return found | {name: clip[name] for name in OF_THE_CLIP if name in clip}


def write_no_text(folder: Path, tokens: Float[Tensor, "s t"]) -> None:
    """Keep the tokens of an empty caption, in half precision like those of the clips."""
    temporary = folder / f"{NO_TEXT}.tmp"
    with temporary.open("wb") as stream:
        np.save(stream, tokens.numpy().astype(np.float16))
    os.replace(temporary, folder / NO_TEXT)


def read_no_text(folder: Path) -> Float[Tensor, "s t"] | None:
    """Tokens of an empty caption, which stand for a dropped one; None where captions are not encoded."""
    path = folder / NO_TEXT
    return torch.from_numpy(np.load(path)).float() if path.is_file() else None
