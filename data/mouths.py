"""Mouths and voices of clips, cut out once: the data of the lip-sync network."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from data.manifest import read_manifest
from data.shards import decode_sample, read_samples
from data.steps import StepData
from data.storage import Location
from gwm.config import AudioConfig
from gwm.files.outputs import whole_file
from gwm.media.face import FaceMesh
from gwm.media.pixels import to_float
from gwm.metrics.face_track import face_track, mouth_crops, seen
from gwm.metrics.lip_sync import moves
from gwm.metrics.sync_net import CROP_PX, WINDOW_FRAMES, voice_features

MARGIN_PX = 4  # around a stored mouth, so that training can move it


@dataclass(frozen=True, slots=True)
class Mouth:
    """A clip in which a visible person speaks."""

    pixels: UInt8[np.ndarray, "f s s 3"]  # of side CROP_PX + MARGIN_PX
    agent: Float[np.ndarray, " t"]

    @property
    def middle(self) -> UInt8[np.ndarray, "f h h 3"]:
        """The pixels that the metric uses."""
        side = slice(MARGIN_PX // 2, MARGIN_PX // 2 + CROP_PX)
        return self.pixels[:, side, side]


@dataclass
class MouthBatch:
    mouths: Float[Tensor, "n w t 3 h h"]  # n clips, w windows each, of t frames; in [-1, 1]
    voices: Float[Tensor, "n w t k"]
    starts: Tensor  # n w: first frame of each window
    step: int

    def __len__(self) -> int:
        return len(self.mouths)


def cut_mouths(shards: Location, split: str, folder: Path) -> list[Mouth]:
    """Mouths of a split, from `folder` or else cut out and kept there; drawn characters, whose faces the mesh does not
    see, are left out."""
    kept = folder / f"{split}.npz"
    if not kept.is_file():
        mesh, found = FaceMesh(), []
        total = read_manifest(shards).splits[split].num_samples
        for sample in tqdm(read_samples(shards, split), desc=f"mouths {split}", total=total, unit="clip"):
            clip = decode_sample(sample)
            if clip.info["style"] != "anny" or not moves(clip.mouth):
                continue
            track = face_track(clip.frames, mesh)
            if seen(track) == 1:
                side = CROP_PX + MARGIN_PX
                found.append((mouth_crops(clip.frames, track, side), np.float16(clip.voices[0])))
        pixels, agents = zip(*found, strict=True)
        with whole_file(kept) as partial:
            np.savez(partial, pixels=np.stack(pixels), agents=np.stack(agents))
    arrays = np.load(kept)
    return [Mouth(*pair) for pair in zip(arrays["pixels"], arrays["agents"].astype(np.float32), strict=True)]


class MouthWindows(Dataset[tuple[int, Any]]):
    """Random windows of a clip, seen in another light and a little moved."""

    def __init__(self, mouths: list[Mouth], *, audio: AudioConfig, windows_per_clip: int, seed: int) -> None:
        self.mouths, self.windows_per_clip, self.seed = mouths, windows_per_clip, seed
        self.voices = [voice_features(mouth.agent, len(mouth.pixels), audio) for mouth in mouths]

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[int, tuple[Tensor, Tensor, Tensor]]:
        step, slot, index = key
        rng = np.random.default_rng((self.seed, step, slot))
        pixels, voice = self.mouths[index].pixels, self.voices[index]
        starts = rng.permutation(len(pixels) - WINDOW_FRAMES + 1)[: self.windows_per_clip]
        frames = starts[:, None] + np.arange(WINDOW_FRAMES)
        return step, (augmented(pixels[frames], rng), voice[frames], torch.from_numpy(starts))


def augmented(mouths: UInt8[np.ndarray, "w t s s 3"], rng: np.random.Generator) -> Float[Tensor, "w t 3 h h"]:
    """Moved, mirrored and in another light and tint, the same in all windows of a clip."""
    top, left = rng.integers(MARGIN_PX + 1, size=2)
    moved = to_float(mouths[:, :, top : top + CROP_PX, left : left + CROP_PX])
    if rng.random() < 0.5:
        moved = moved.flip(-1)
    gain, shift = rng.uniform(0.7, 1.3, size=(3, 1, 1)), rng.uniform(-0.15, 0.15, size=(3, 1, 1))
    return moved * torch.from_numpy(gain).float() + torch.from_numpy(shift).float()


def mouth_batch(items: list[tuple[int, Any]]) -> MouthBatch:
    mouths, voices, starts = (torch.stack(parts) for parts in zip(*(parts for _, parts in items), strict=True))
    return MouthBatch(mouths, voices, starts, step=items[0][0])


class MouthData(StepData):
    """Windows of mouths and voices for `stage=sync`."""

    def __init__(
        self,
        *,
        shards: str,
        mouths: str,
        audio: AudioConfig,
        batch_size: int,
        windows_per_clip: int,
        num_workers: int,
        seed: int,
        device_batch: int | None = None,
    ) -> None:
        super().__init__(
            shards=shards, batch_size=batch_size, num_workers=num_workers, seed=seed, device_batch=device_batch
        )
        self.mouths, self.audio, self.windows_per_clip = Path(mouths), audio, windows_per_clip

    def setup(self, stage: str) -> None:
        self.clips = cut_mouths(self.shards, "train", self.mouths)

    def train_dataloader(self) -> DataLoader[Any]:
        dataset = MouthWindows(self.clips, audio=self.audio, windows_per_clip=self.windows_per_clip, seed=self.seed)
        return self.loader(dataset, len(self.clips), mouth_batch)

    def held_out(self, split: str) -> list[Mouth]:
        """Clips of people and sentences that no training saw."""
        return cut_mouths(self.shards, split, self.mouths)
