"""Batches for training: the k-th batch depends on (seed, k) alone, so a resumed run needs no loader state but k."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from data.crops import moving_crops
from data.encode import encode_shards, read_latents
from data.shards import decode_frames, read_samples
from data.storage import locate
from gwm.condition.audio import chunk_windows
from gwm.condition.inputs import Condition
from gwm.config import AudioConfig
from gwm.pixels import to_float
from gwm.vae import VAE


@dataclass
class PixelBatch:
    pixel_frames: Float[Tensor, "b t 3 h w"]  # in [-1, 1]
    step: int
    first_slot: int = 0  # as in LatentBatch, counted in crops

    def __len__(self) -> int:
        return len(self.pixel_frames)


@dataclass
class LatentBatch:
    x0: Float[Tensor, "b f c h w"]
    reference: Float[Tensor, "b 1 c h w"]
    agent: Float[Tensor, "b f k"]
    user: Float[Tensor, "b f k"]
    step: int  # this belongs to the step-th batch of the run
    first_slot: int = 0  # place of its first sample in that batch, of which each device and each pass has a part

    def __len__(self) -> int:
        return len(self.x0)

    @property
    def condition(self) -> Condition:
        return Condition(agent=self.agent, user=self.user)


def split_batch(batch_size: int, device_batch: int | None, num_devices: int) -> tuple[int, int]:
    """Samples that a device computes at once, and how often it does so before the weights move.

    device_batch: None computes a device's whole share at once.

    Raises:
        ValueError: the batch cannot be divided so.
    """
    at_once = max(1, batch_size // num_devices) if device_batch is None else device_batch
    if at_once < 1 or batch_size % (at_once * num_devices):
        raise ValueError(
            f"batch_size={batch_size} must be a multiple of {num_devices} devices times device_batch={at_once}: it is "
            "what moves the weights once, however it is divided. Change one of the three."
        )
    return at_once, batch_size // (at_once * num_devices)


class StepSampler(Sampler[list[tuple[int, int, int]]]):
    """Endless batches of (step, slot, sample), each drawn uniformly with replacement from (seed, step).

    A batch is divided into parts of `device_batch` samples, which the devices take in turn.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        batch_size: int,
        seed: int,
        first_step: int,
        device_batch: int | None = None,
        num_devices: int = 1,
        device: int = 0,
    ) -> None:
        self.num_samples, self.batch_size, self.seed, self.first_step = num_samples, batch_size, seed, first_step
        self.part = split_batch(batch_size, device_batch, num_devices)[0]
        self.num_devices, self.device = num_devices, device

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        step = self.first_step
        while True:
            picks = np.random.default_rng((self.seed, step)).integers(self.num_samples, size=self.batch_size)
            for start in range(self.device * self.part, self.batch_size, self.num_devices * self.part):
                yield [(step, slot, int(picks[slot])) for slot in range(start, start + self.part)]
            step += 1


class StepData(L.LightningDataModule):
    """Base of both modules: knows the next step and keeps it in every checkpoint.

    `batch_size` is what moves the weights once, on all devices together.
    """

    def __init__(
        self, *, shards: str, batch_size: int, num_workers: int, seed: int, device_batch: int | None = None
    ) -> None:
        super().__init__()
        self.shards, self.batch_size, self.num_workers, self.seed = locate(shards), batch_size, num_workers, seed
        self.device_batch = device_batch
        self.next_step, self._passes = 0, 0

    def split(self, num_devices: int) -> tuple[int, int]:
        """As `split_batch`."""
        return split_batch(self.batch_size, self.device_batch, num_devices)

    def loader(self, dataset: Dataset[Any], num_samples: int, collate: Any) -> DataLoader[Any]:
        sampler = StepSampler(
            num_samples,
            batch_size=self.batch_size,
            seed=self.seed,
            first_step=self.next_step,
            device_batch=self.device_batch,
            num_devices=self._num_devices,
            device=self.trainer.global_rank if self.trainer else 0,
        )
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    @property
    def _num_devices(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        # A checkpoint between the passes of a batch has none of their gradients: the batch starts anew.
        self._passes = (self._passes + 1) % self.split(self._num_devices)[1]
        self.next_step = batch.step if self._passes else batch.step + 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"next_step": self.next_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.next_step = state_dict["next_step"]


class PixelClips(Dataset[UInt8[np.ndarray, "n t h w 3"]]):
    """Crops of clips, decoded when asked for; the encoded clips stay in memory."""

    def __init__(
        self, clips: list[bytes], *, crop_frames: int, crop_size: int, crops_per_clip: int, half_share: float, seed: int
    ) -> None:
        self.clips, self.crops_per_clip, self.half_share, self.seed = clips, crops_per_clip, half_share, seed
        self.crop_frames, self.crop_size = crop_frames, crop_size

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[int, int, UInt8[np.ndarray, "n t h w 3"]]:
        step, slot, index = key
        rng = np.random.default_rng((self.seed, step, slot))
        frames = decode_frames(self.clips[index])
        return (
            step,
            slot,
            moving_crops(
                frames,
                rng,
                num_crops=self.crops_per_clip,
                num_frames=self.crop_frames,
                size=self.crop_size,
                half_share=self.half_share,
            ),
        )


class PixelData(StepData):
    """Crops around what moves, for the autoencoder."""

    def __init__(
        self,
        *,
        shards: str,
        batch_size: int,
        num_workers: int,
        seed: int,
        crop_frames: int,
        crop_size: int,
        crops_per_clip: int,
        half_share: float,
        resolution: int,
        device_batch: int | None = None,
    ) -> None:
        super().__init__(
            shards=shards, batch_size=batch_size, num_workers=num_workers, seed=seed, device_batch=device_batch
        )
        self.crop_frames, self.crop_size, self.crops_per_clip = crop_frames, crop_size, crops_per_clip
        self.half_share = half_share
        self.resolution = resolution  # at which the gate judges

    def setup(self, stage: str) -> None:
        self.clips = [sample["mp4"] for sample in read_samples(self.shards, "train")]

    def train_dataloader(self) -> DataLoader[Any]:
        dataset = PixelClips(
            self.clips,
            crop_frames=self.crop_frames,
            crop_size=self.crop_size,
            crops_per_clip=self.crops_per_clip,
            half_share=self.half_share,
            seed=self.seed,
        )
        return self.loader(dataset, len(self.clips), _pixel_batch)


def _pixel_batch(items: list[tuple[int, int, np.ndarray]]) -> PixelBatch:
    step, slot, crops = items[0]
    return PixelBatch(
        to_float(np.concatenate([crops for _, _, crops in items])), step=step, first_slot=slot * len(crops)
    )


class LatentClips(Dataset[dict[str, Any]]):
    """Encoded clips in memory; a crop of latent frames with the whole audio window of each."""

    def __init__(self, clips: list[dict[str, Tensor]], *, num_frames: int, seed: int) -> None:
        self.clips, self.num_frames, self.seed = clips, num_frames, seed

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        step, slot, index = key
        clip = self.clips[index]
        spare = len(clip["x0"]) - self.num_frames
        start = int(np.random.default_rng((self.seed, step, slot)).integers(spare + 1))
        part = slice(start, start + self.num_frames)
        cut = {name: clip[name][part] for name in ("x0", "agent", "user")}
        return cut | {"reference": clip["reference"], "step": step, "slot": slot}


class LatentData(StepData):
    """Encoded clips, for every stage after the autoencoder; encodes the shards when they are not encoded yet."""

    def __init__(
        self,
        *,
        shards: str,
        latents: str,
        vae: VAE,
        audio: AudioConfig,
        resolution: int,
        num_frames: int,
        batch_size: int,
        seed: int,
        device_batch: int | None = None,
    ) -> None:
        super().__init__(shards=shards, batch_size=batch_size, num_workers=0, seed=seed, device_batch=device_batch)
        self.latents, self.vae, self.audio = Path(latents), vae, audio
        self.resolution, self.num_frames = resolution, num_frames

    def prepare_data(self) -> None:
        encode_shards(self.shards, self.latents, vae=self.vae, audio=self.audio, resolution=self.resolution)

    def setup(self, stage: str) -> None:
        clips = list(read_latents(self.latents, "train"))
        self.motion = torch.stack([clip["motion"] for clip in clips]).mean(0)
        self.clips = [with_windows(clip, self.audio) for clip in clips]
        shortest = min(len(clip["x0"]) for clip in self.clips)
        if shortest < self.num_frames:
            raise ValueError(
                f"num_frames={self.num_frames} latent frames must be at most {shortest}: that many of a clip in "
                f"{self.shards} have their whole audio window inside the clip. Make longer clips."
            )

    def train_dataloader(self) -> DataLoader[Any]:
        dataset = LatentClips(self.clips, num_frames=self.num_frames, seed=self.seed)
        return self.loader(dataset, len(self.clips), latent_batch)


def latent_data(stage: L.LightningModule) -> LatentData:
    """The data module of a stage that trains on latents."""
    data = stage.trainer.datamodule  # type: ignore[attr-defined]  # set by fit(..., datamodule)
    assert isinstance(data, LatentData), type(data)
    return data


def latent_batch(items: list[dict[str, Any]]) -> LatentBatch:
    stacked = {name: torch.stack([item[name] for item in items]) for name in ("x0", "reference", "agent", "user")}
    return LatentBatch(**stacked, step=items[0]["step"], first_slot=items[0]["slot"])


def with_windows(clip: dict[str, Tensor], audio: AudioConfig) -> dict[str, Tensor]:
    """The latent frames of a clip whose audio windows lie inside it, as x0, with those windows."""
    latents = clip["latents"]
    stride = clip["agent"].shape[0] // latents.shape[0]
    before, after = -(-audio.left_frames // stride), -(-audio.lookahead_frames // stride)
    skip = before * stride - audio.left_frames
    x0 = latents[before : len(latents) - after]
    windows = {
        name: chunk_windows(clip[name][None, skip:], audio, temporal_stride=stride)[0, : len(x0)]
        for name in ("agent", "user")
    }
    return {"x0": x0, "reference": clip["reference"], **windows}
