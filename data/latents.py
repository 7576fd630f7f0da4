"""Encoded clips of data sets that may be larger than memory: an index finds them, and as many as fit stay in memory.

Beside every shard lies its index, made when the shard is: where each clip begins, and what must be known of all clips
before the first batch.
"""

import io
import json
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
from gwm.files.outputs import whole_file

MEMBER = "latents.npz"  # of a sample
INDEX_SUFFIX = ".index.npz"
WHOLE = ("tokens.", "reference")  # prefixes of what belongs to a clip and not to its frames
BEFORE = "before"  # of a clip that continues its reference: the picture before each latent frame, as a reference
NO_TEXT = "no_text.npy"  # what the text encoder says of the empty caption


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """Clips of one shard, in the order in which they were written."""

    bytes: int  # of the shard that it is of
    offset: Int[np.ndarray, " n"]  # bytes before a clip's arrays
    size: Int[np.ndarray, " n"]  # bytes
    num_frames: Int[np.ndarray, " n"]  # latent frames that have their whole audio window inside the clip
    signals: str  # JSON: of each clip, its signals and their numbers per latent frame
    motion: Float[np.ndarray, "h w"]  # summed over clips


def write_index(shard: Path, audio: AudioConfig) -> ShardIndex:
    """Look through a shard and leave its index beside it."""
    rows, motion, signals = [], [], []
    with tarfile.open(shard) as tar:
        for member in tar:
            if not member.name.endswith(f".{MEMBER}"):
                continue
            file = tar.extractfile(member)
            assert file is not None, f"{member.name} of {shard} is no file"
            clip = decode_arrays(file.read())
            stride = len(clip["speech.agent"]) // len(clip["latents"])
            heard = heard_frames(len(clip["latents"]), stride, audio)
            signals.append({n: x.shape[1] * stride for n, x in clip.items() if n.startswith("frame.")})
            rows.append((member.offset_data, member.size, max(0, heard.stop - heard.start)))
            motion.append(clip["motion"].double().numpy())
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    index = ShardIndex(
        bytes=shard.stat().st_size,
        offset=columns[0],
        size=columns[1],
        num_frames=columns[2],
        signals=json.dumps(signals),
        motion=np.sum(motion, axis=0) if motion else np.zeros((0, 0)),
    )
    with whole_file(_index_path(shard)) as partial:
        np.savez(partial, **asdict(index))  # type: ignore[arg-type]
    return index


def read_index(shard: Path, audio: AudioConfig) -> ShardIndex:
    """The index beside a shard; made now where it is missing or of another file than what lies there."""
    path = _index_path(shard)
    if path.is_file():
        with np.load(path) as arrays:
            fields: dict[str, Any] = dict(arrays)
        fields |= {"bytes": int(fields["bytes"]), "signals": str(fields["signals"])}
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
        """Read the indices of a split's shards; clips are read when they are asked for.

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
        clips = [signals for index in filled for signals in json.loads(index.signals)]
        self.signals: dict[str, int] = {name: width for signals in clips for name, width in signals.items()}
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
        missing = {name: width for name, width in self.signals.items() if name not in clip}  # others do nothing
        return clip | {name: clip["x0"].new_zeros(len(clip["x0"]), width) for name, width in missing.items()}


def _bytes(clip: dict[str, Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in clip.values())


def decode_arrays(data: bytes) -> dict[str, Float[Tensor, "..."]]:
    """An encoded clip in float32: latents, reference, motion, and conditions as `encode_clip` names them."""
    with np.load(io.BytesIO(data)) as arrays:
        return {name: torch.from_numpy(arrays[name]).float() for name in arrays}


def heard_frames(num_frames: int, stride: int, audio: AudioConfig) -> slice:
    """Those of a clip's latent frames, of `stride` pixel frames each, whose audio windows lie inside it."""
    before, after = -(-audio.left_frames // stride), -(-audio.lookahead_frames // stride)
    return slice(before, num_frames - after)


def with_windows(clip: dict[str, Tensor], audio: AudioConfig) -> dict[str, Tensor]:
    """The latent frames of a clip whose audio windows lie inside it, as x0, with their conditions by the names of
    `Conditions.flat`."""
    latents = clip["latents"]
    stride = len(clip["speech.agent"]) // len(latents)
    heard = heard_frames(len(latents), stride, audio)
    skip, x0 = heard.start * stride - audio.left_frames, latents[heard]
    found = {"x0": x0}
    for key, values in clip.items():
        group, _, name = key.partition(".")
        if group == "speech":
            windows = chunk_windows(values[None, skip:], audio, temporal_stride=stride)
            found[f"frame.{name}"] = windows[0, : len(x0)]
        elif group == "frame":
            found[key] = values[heard.start * stride :][: len(x0) * stride].reshape(len(x0), -1)
        elif group == "channels":  # of the image's clip, which begins with the image, wherever this one is cut
            found[key] = values[: len(x0)]
        elif key == BEFORE:
            found[key] = values[heard]
        elif key.startswith(WHOLE):
            found[key] = values
    return found


def write_no_text(folder: Path, tokens: Float[Tensor, "s t"]) -> None:
    """Keep the tokens of an empty caption, in half precision like those of the clips."""
    with whole_file(folder / NO_TEXT) as partial:
        np.save(partial, tokens.numpy().astype(np.float16))


def read_no_text(folder: Path) -> Float[Tensor, "s t"] | None:
    """Tokens of an empty caption, which stand for a dropped one; None where captions are not encoded."""
    path = folder / NO_TEXT
    return torch.from_numpy(np.load(path)).float() if path.is_file() else None
