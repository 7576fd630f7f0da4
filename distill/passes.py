"""An update of two optimizers that is computed in several passes, for devices that cannot hold the batch."""

import copy
from collections.abc import Mapping
from typing import Any

import torch

from data.batch import LatentBatch
from distill.student_forcing import RolloutRequest
from distill.windows import Window, Windows
from gwm.contract import Contract
from gwm.dit import Denoiser


class WindowsOfPasses:
    """Windows of streams for each pass of an update: every pass continues the streams of its own samples."""

    def __init__(self, windows: Windows) -> None:
        self._new, self._parts = windows, dict[str, Windows]()

    def __call__(
        self,
        model: Denoiser,
        contract: Contract,
        batch: LatentBatch,
        request: RolloutRequest,
        shared: torch.Generator,
    ) -> Window:
        part = f"{batch.first_slot}+{len(batch)}"  # its place in the batch, and how many samples
        if part not in self._parts:
            self._parts[part] = copy.deepcopy(self._new)
        return self._parts[part](model, contract, batch, request, shared)

    def check(self, contract: Contract, num_frames: int) -> None:
        self._new.check(contract, num_frames)

    def state_dict(self) -> dict[str, Any]:
        states = {part: windows.state_dict() for part, windows in self._parts.items()}
        return {part: state for part, state in states.items() if state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._parts = {}
        for part, of_part in state.items():
            self._parts[part] = copy.deepcopy(self._new)
            self._parts[part].load_state_dict(of_part)


def check_passes(passes: int, *, gan: bool, reward: bool) -> None:
    """Refuse gradient accumulation for losses that need the whole batch in one pass.

    Raises:
        ValueError: something looks at the whole batch at once, or at a critic that has moved.
    """
    for name, used in (("gan", gan), ("reward", reward)):
        if used and passes > 1:
            raise ValueError(
                f"stage.{name} must be null where an update has {passes} passes, as it needs the whole batch in one. "
                "Raise device_batch, use more devices or lower data.batch_size."
            )
