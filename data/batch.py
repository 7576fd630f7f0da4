"""Batches for training, of pixels and of latents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.crops import moving_crops
from data.encode import encode_shards
from data.encoding import Encoders, ImageEncoder, TextEncoder
from data.latents import BEFORE, WHOLE, EncodedClips, read_no_text
from data.manifest import read_manifest
from data.shards import decode_frames, read_samples
from data.steps import StepData
from gwm.autoencoders.protocol import Autoencoder
from gwm.clip import CleanClip
from gwm.condition.inputs import Conditions
from gwm.config import AudioConfig, DiTConfig
from gwm.contract import Contract
from gwm.media.pixels import to_float
from gwm.no_text import padded_text
from gwm.resolution import Resolution

TEXT_TOKENS = 512  # Wan's: shorter captions are followed by zeros, which its text attention sees
IMAGE_TOKENS = 257  # of CLIP ViT-H/14, as Wan 2.1 I2V has it


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
    conditions: dict[str, Tensor]  # by the names of `Conditions.flat`; a dict, which Lightning moves between devices
    step: int  # this belongs to the step-th batch of the run
    first_slot: int = 0  # place of its first sample in that batch, of which each device and each pass has a part

    def __len__(self) -> int:
        return len(self.x0)

    @property
    def condition(self) -> Conditions:
        return Conditions.from_flat(self.conditions)

    @property
    def clip(self) -> CleanClip:
        return CleanClip(self.x0, self.reference, self.condition)


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
        resolution: Resolution,
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

    def random_batch(self, count: int, stage: Any) -> PixelBatch:
        shape = (count * self.crops_per_clip, self.crop_frames, 3, self.crop_size, self.crop_size)
        return PixelBatch(torch.rand(shape) * 2 - 1, step=0)


def _pixel_batch(items: list[tuple[int, int, np.ndarray]]) -> PixelBatch:
    step, slot, crops = items[0]
    return PixelBatch(
        to_float(np.concatenate([crops for _, _, crops in items])), step=step, first_slot=slot * len(crops)
    )


DRAWS = 20  # of crops until a condition is active in one; a character blinks in every third second


class LatentClips(Dataset[dict[str, Any]]):
    """A crop of latent frames of an encoded clip, with the whole audio window of each."""

    def __init__(
        self,
        clips: Sequence[dict[str, Tensor]],
        *,
        num_frames: int,
        seed: int,
        no_text: Float[Tensor, "q t"] | None = None,
        active: str | None = None,
    ) -> None:
        """no_text: tokens of the empty caption, where clips have captions. active: name of a frame condition; a crop in
        which it is zero is replaced by a crop of another clip, DRAWS times at most."""
        self.clips, self.num_frames, self.seed, self.no_text = clips, num_frames, seed, no_text
        self.active = None if active is None else f"frame.{active}"

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        step, slot, index = key
        rng = np.random.default_rng((self.seed, step, slot))
        clip, part = self._crop(index, rng)
        for _ in range(DRAWS if self.active in clip else 0):
            if clip[self.active][part].any():  # type: ignore[index]  # None is in no clip
                break
            clip, part = self._crop(int(rng.integers(len(self.clips))), rng)
        cut = {name: values if name.startswith(WHOLE) else values[part] for name, values in clip.items()}
        if BEFORE in cut:
            cut["reference"] = cut.pop(BEFORE)[:1]
        for name in (name for name in clip if name.startswith("channels.")):
            cut[name] = clip[name][: self.num_frames]  # the image comes right before the crop
        if self.no_text is not None:
            cut["nothing.text"] = self.no_text
        return cut | {"step": step, "slot": slot}

    def _crop(self, index: int, rng: np.random.Generator) -> tuple[dict[str, Tensor], slice]:
        clip = self.clips[index]
        start = int(rng.integers(len(clip["x0"]) - self.num_frames + 1))
        return clip, slice(start, start + self.num_frames)


class ClipData(StepData):
    """Latents and their conditions from any source: what stages that train on them use."""

    num_frames: int  # latent frames of a crop
    motion: Float[Tensor, "*c h w"]  # how much moves there, in any unit
    clips: Sequence[dict[str, Tensor]]
    actions: tuple[str, ...] = ()  # facial actions among the conditions
    declared: Mapping[str, Mapping[str, Any]] = {}  # by whoever made the data: fields of conditions, by their names

    @property
    def no_text(self) -> Float[Tensor, "q t"] | None:
        """Tokens of the empty caption; None where there are no captions."""
        return None

    def random_batch(self, count: int, stage: Any) -> Any:
        contract: Contract = stage.contract
        self.motion = torch.ones(contract.latent_grid)
        return random_latents(contract.dit, (count, self.num_frames), contract.latent_grid)


class LatentData(ClipData):
    """Encoded clips, for every stage after the autoencoder; encodes the shards when they are not encoded yet.

    `memory_gb` of clips stay in memory, in each process that reads; `num_workers` of these read ahead of training.
    """

    def __init__(
        self,
        *,
        shards: str,
        latents: str,
        vae: Autoencoder,
        audio: AudioConfig,
        resolution: Resolution,
        num_frames: int,
        batch_size: int,
        seed: int,
        num_workers: int = 0,
        memory_gb: float = 4.0,
        device_batch: int | None = None,
        text: TextEncoder | None = None,
        image: ImageEncoder | None = None,
        actions: Sequence[str] = (),
        active: str | None = None,
    ) -> None:
        """actions: facial actions that are encoded. active: as in `LatentClips`, for a stage that learns them."""
        super().__init__(
            shards=shards, batch_size=batch_size, num_workers=num_workers, seed=seed, device_batch=device_batch
        )
        self.memory_bytes = int(memory_gb * 1e9)
        self.latents, self.vae, self.audio, self.text, self.image = Path(latents), vae, audio, text, image
        self.resolution, self.num_frames = resolution, num_frames
        self.actions, self.active = tuple(actions), active

    def prepare_data(self) -> None:
        encoders = Encoders(self.vae, self.audio, self.resolution, self.text, self.image, self.actions)
        encode_shards(self.shards, self.latents, encoders)

    def setup(self, stage: str) -> None:
        self.clips = EncodedClips(self.latents, "train", self.audio, memory_bytes=self.memory_bytes)
        self.motion, shortest = self.clips.motion, self.clips.shortest
        self.declared = read_manifest(self.latents).generator["source"].get("conditions", {})
        if shortest < self.num_frames:
            raise ValueError(
                f"num_frames={self.num_frames} latent frames must be at most {shortest}: that many of a clip in "
                f"{self.shards} have their whole audio window inside the clip. Make longer clips."
            )

    @property
    def no_text(self) -> Float[Tensor, "q t"] | None:
        return read_no_text(self.latents)

    def train_dataloader(self) -> DataLoader[Any]:
        dataset = LatentClips(
            self.clips, num_frames=self.num_frames, seed=self.seed, no_text=self.no_text, active=self.active
        )
        return self.loader(dataset, len(self.clips), latent_batch)


def random_latents(config: DiTConfig, clips: tuple[int, int], grid: tuple[int, int]) -> LatentBatch:
    """Random clips, so many of so many latent frames, with every condition that the model declares."""
    count, tokens = clips[0], {"text": TEXT_TOKENS, "image": config.places or IMAGE_TOKENS}
    conditions = {}
    for spec in config.conditions:
        if spec.rate == "frame":
            conditions[f"frame.{spec.name}"] = torch.randn(*clips, spec.width)
        elif spec.rate == "tokens":
            conditions[f"tokens.{spec.name}"] = torch.randn(count, tokens[spec.encoder], spec.width)
            conditions[f"nothing.{spec.name}"] = torch.randn(1, spec.width)
        else:
            conditions[f"channels.{spec.name}"] = torch.randn(*clips, spec.width, *grid)
            conditions[f"reference_channels.{spec.name}"] = torch.randn(count, 1, spec.width, *grid)
    shape = (config.in_channels, *grid)
    return LatentBatch(torch.randn(*clips, *shape), torch.randn(count, 1, *shape), conditions, step=0)


def latent_data(stage: L.LightningModule) -> ClipData:
    """The data module of a stage that trains on latents."""
    data = stage.trainer.datamodule  # type: ignore[attr-defined]  # set by fit(..., datamodule)
    assert isinstance(data, ClipData), type(data)
    return data


def latent_batch(items: list[dict[str, Any]]) -> LatentBatch:
    """Crops of clips as one batch; texts become equally long."""
    if "tokens.text" in items[0]:
        items = [item | {"tokens.text": padded(item["tokens.text"])} for item in items]
    first = items[0]
    conditions = {
        name: value if name.startswith("nothing.") else torch.stack([item[name] for item in items])
        for name, value in first.items()
        if "." in name
    }
    x0, reference = (torch.stack([item[name] for item in items]) for name in ("x0", "reference"))
    return LatentBatch(x0, reference, conditions, step=first["step"], first_slot=first["slot"])


def padded(text: Float[Tensor, "s t"]) -> Float[Tensor, "512 t"]:
    """TEXT_TOKENS tokens: the first ones of a longer text, zeros behind a shorter one."""
    return padded_text(text, TEXT_TOKENS)
