"""Performances that are never rendered, as exact codes of the motion autoencoder: the training data of models of its
latents.

They are made while training goes on, by workers. One core makes 170 times as much as it could play (CPU time, EPYC,
2026-11-28; two thirds of it is speech synthesis, features of both voices take a sixth), and the recipe reads 270 times
as much (bidirectional stage, 5.9 M parameters). Crops are therefore cut from a pool of the performances made last,
which moves on with every step: no shards have to be made before, none fill the disk, and none that left comes back.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from data.batch import ClipData, LatentClips, latent_batch
from data.clips import reference_pose
from data.encoding import codes
from data.latents import heard_frames, with_windows
from data.manner import draw_manner
from data.performance import Performance, perform
from data.speech.sentences import Split
from data.synthetic import derive_seed
from gwm.autoencoders.motion.code import FRAMES, SHIFTS_PX, WIDTH, to_latents
from gwm.clock import FPS
from gwm.condition.audio import frame_features
from gwm.config import AudioConfig

FIRST_POOL = 8  # performances
MANNER_STREAM = 1  # of a performance's seed: its dialogue does not depend on its manner


@dataclass(frozen=True, kw_only=True)
class Acting:
    """Settings that all performances of a data set share."""

    seconds: float  # of a performance
    head_motion: float  # share of the natural head motion
    manners: bool  # whether liveliness and mood vary and are given; otherwise all is natural
    reference_spread: float  # 0: heads move about the reference's pose; 1: that is another, as of rendered clips

    @property
    def num_frames(self) -> int:
        """Pixel frames of a performance: whole latent frames."""
        return round(self.seconds * FPS / FRAMES) * FRAMES

    def perform(self, seed: int, split: Split) -> tuple[Performance, Float[np.ndarray, "3"]]:
        """A performance, with the pose of its reference."""
        rng = np.random.default_rng((seed, MANNER_STREAM))
        act = perform(seed, self.num_frames, split, draw_manner(rng, self.num_frames) if self.manners else None)
        act = replace(act, pose=np.float32(self.head_motion) * act.pose)
        middle, other = act.pose.mean(axis=0), np.float32(self.head_motion) * reference_pose(seed)
        return act, np.float32(1 - self.reference_spread) * middle + np.float32(self.reference_spread) * other


def encode_performance(
    act: Performance, reference: Float[np.ndarray, "3"], audio: AudioConfig
) -> dict[str, Float[Tensor, "..."]]:
    """Latent frames whose audio windows lie inside the performance, as `data.latents.with_windows` gives them."""
    agent, user = frame_features(torch.from_numpy(np.stack([act.agent, act.user])), audio)
    code = codes(act.actions, act.pose, act.gaze, reference_pose=reference)
    arrays = {"latents": to_latents(code[None])[0], "speech.agent": agent, "speech.user": user}
    if act.manner is not None:
        arrays["frame.manner"] = torch.from_numpy(act.manner.given)
    return with_windows(arrays | {"reference": torch.zeros(1, WIDTH, 2, 2)}, audio)


class Performances(Sequence[dict[str, Tensor]]):
    """Endless performances, each made from its number when it is asked for; the last `pool` of them stay in memory."""

    def __init__(self, acting: Acting, audio: AudioConfig, *, split: Split, seed: int, pool: int) -> None:
        self.acting, self.audio, self.seed, self.pool = acting, audio, seed, pool
        self.split: Split = split
        self._kept: OrderedDict[int, dict[str, Tensor]] = OrderedDict()

    def __len__(self) -> int:
        return self.pool

    def __getitem__(self, number: int) -> dict[str, Tensor]:  # type: ignore[override]  # no slices
        clip = self._kept.pop(number, None)
        if clip is None:
            clip = encode_performance(*self.act(number), self.audio)
        self._kept[number] = clip
        if len(self._kept) > self.pool:
            self._kept.popitem(last=False)
        return clip

    def act(self, number: int) -> tuple[Performance, Float[np.ndarray, "3"]]:
        """The performance behind a clip, with the pose of its reference."""
        return self.acting.perform(derive_seed(self.seed, self.split, "clip", number), self.split)


class MovingCrops(LatentClips):
    """Crops of the pool of a step, which begins `fresh` performances further on than that of the step before.

    The first pools are small, and grow by a performance every other step: training need not wait for a whole one.
    """

    def __init__(self, clips: Performances, *, num_frames: int, seed: int, fresh: float) -> None:
        super().__init__(clips, num_frames=num_frames, seed=seed)
        self.fresh = fresh

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        step, slot, place = key
        size = min(len(self.clips), FIRST_POOL + step // 2)
        return super().__getitem__((step, slot, int(step * self.fresh) + place % size))


class PerformanceData(ClipData):
    """Exact codes for every stage after the autoencoder; needs no shards.

    A batch depends on the seed and its step alone: neither on the number of workers nor on where a run was resumed.
    """

    def __init__(
        self,
        *,
        audio: AudioConfig,
        acting: Acting,
        num_frames: int,
        pool: int,
        crops: float,
        weights_px: Sequence[float],
        batch_size: int,
        num_workers: int,
        seed: int,
        device_batch: int | None = None,
    ) -> None:
        """num_frames: latent frames of a crop. pool: performances of which crops are cut at a time. crops: that are cut
        of a performance while it is in the pool, on average. weights_px: minimum and maximum weight of a number in
        the loss, which is how far it shifts the picture.

        Raises:
            ValueError: crops are longer than performances, or nothing is left in a pool.
        """
        super().__init__(
            shards="", batch_size=batch_size, num_workers=num_workers, seed=seed, device_batch=device_batch
        )
        heard = heard_frames(acting.num_frames // FRAMES, FRAMES, audio)
        if not 1 <= num_frames <= heard.stop - heard.start:
            raise ValueError(
                f"num_frames={num_frames} must be in [1, {heard.stop - heard.start}], the latent frames with a whole "
                f"audio window in a performance of {acting.seconds} s. Make acting.seconds longer."
            )
        if pool < 1 or crops <= 0:
            raise ValueError(f"pool={pool} and crops={crops} must be positive: crops are cut of performances.")
        self.audio, self.acting, self.num_frames, self.fresh = audio, acting, num_frames, batch_size / crops
        lowest, highest = weights_px
        self.motion = torch.tensor(list(SHIFTS_PX.values())).clamp(lowest, highest)[:, None, None].expand(-1, 2, 2)
        self.clips = self.pool = Performances(acting, audio, split="train", seed=seed, pool=pool)

    def train_dataloader(self) -> DataLoader[Any]:
        crops = MovingCrops(self.pool, num_frames=self.num_frames, seed=self.seed, fresh=self.fresh)
        return self.loader(crops, len(self.pool), latent_batch)

    def held_out(self, count: int, seconds: float) -> tuple[list[dict[str, Tensor]], list[Performance]]:
        """Performances with sentences and voices that are in no training data, and their clips."""
        pool = Performances(replace(self.acting, seconds=seconds), self.audio, split="val", seed=self.seed, pool=count)
        return [pool[number] for number in range(count)], [pool.act(number)[0] for number in range(count)]
