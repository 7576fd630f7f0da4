"""Samples of each training step on each device: batch k depends on (seed, k) alone, so that a resumed run needs no
loader state but k."""

from collections.abc import Iterator
from typing import Any

import lightning as L
import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from data.storage import locate


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

    def random_batch(self, count: int, stage: Any) -> Any:
        """A random batch of what this data declares, of `count` samples, for the model of a stage; nothing is read.

        Raises:
            ValueError: this data does not say what its batches look like.
        """
        raise ValueError(f"plan=true needs data of clips or crops, this stage has {type(self).__name__}.")

    def stay_between_passes(self) -> None:
        """Be at neither the first nor the last pass of a batch: gradients are there, and weights stay."""
        self._passes = -1

    @property
    def is_first_pass(self) -> bool:
        """Whether the part of a batch that was handed out last is the batch's first one."""
        return self._passes == 1 % self.split(self._num_devices)[1]

    @property
    def is_last_pass(self) -> bool:
        """Whether the part of a batch that was handed out last is the batch's last one."""
        return self._passes == 0

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
