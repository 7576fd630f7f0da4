"""Training stops where its numbers are no longer finite, and its last good checkpoint stays as it is."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

NEVER = -1
WATCHED = ("loss", "gradient norm")


class NotFiniteError(RuntimeError):
    """A loss, a gradient or a weight is infinite or not a number."""


class FiniteNumbers(L.Callback):
    """Looks at the loss of every pass and at the gradient norm before every optimizer's step.

    The step at which either first was not finite is kept on the device, so that a GPU need not wait for the host. It is
    read at every step on a CPU; on a GPU when the log is written, for which the host waits anyway, and before every
    checkpoint: none is written after that step. All devices stop together. DeepSpeed keeps gradients to itself: there
    the loss of the next step shows.
    """

    def __init__(self, output: Path) -> None:
        self.stage, self.kept = output.name, output / "last.ckpt"
        self.first: Tensor | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.first = torch.full((len(WATCHED),), NEVER, device=pl_module.device)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        self._note(0, loss.detach(), trainer.global_step)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = [_local(p.grad) for p in parameters]
        self._note(1, get_total_norm(gradients), trainer.global_step)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        if pl_module.device.type == "cpu" or trainer.global_step % max(every, 1) == 0:
            self.check(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """The weights too, with their EMA: the last step may have ruined them with a finite gradient."""
        self.check(trainer)
        tensors = {name: _local(value) for name, value in checkpoint["state_dict"].items()}
        broken = [name for name, value in tensors.items() if not value.isfinite().all()]
        if trainer.strategy.reduce_boolean_decision(bool(broken), all=False):
            what = f"{len(broken)} of {len(tensors)} tensors ({broken[0]})" if broken else "weights on another device"
            raise self._error(what, trainer.global_step)

    def check(self, trainer: L.Trainer) -> None:
        """Stop if a number was not finite, on whichever device.

        Raises:
            NotFiniteError: it names the stage, the first such step and the checkpoint that is kept.
        """
        if self.first is None:  # nothing was trained
            return
        steps = dict(zip(WATCHED, self.first.tolist(), strict=True))
        broken = {what: step for what, step in steps.items() if step != NEVER}
        if trainer.strategy.reduce_boolean_decision(bool(broken), all=False):
            what = min(broken, key=broken.__getitem__) if broken else "loss or gradient norm on another device"
            raise self._error(what, broken.get(what, trainer.global_step))

    def _note(self, index: int, number: Tensor, step: int) -> None:
        assert self.first is not None
        bad = ~number.isfinite() & (self.first[index] == NEVER)
        self.first[index] = torch.where(bad, step, self.first[index])

    def _error(self, what: str, step: int) -> NotFiniteError:
        kept = (
            f"The last good checkpoint, {self.kept}, is kept" if self.kept.is_file() else "There is no checkpoint yet"
        )
        return NotFiniteError(
            f"stage={self.stage} stopped at step {step}: {what} not finite. {kept}, and no weights were written. Lower "
            "the learning rate (optimizer.lr), raise warmup_steps, or look for damaged clips in the data."
        )


def _local(tensor: Any) -> Tensor:
    """This device's part of a tensor that is divided among several."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
