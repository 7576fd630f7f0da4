"""A network under training, the moving average of its weights (EMA), its optimizer and its learning rates."""

import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gwm.dit import DiT
from gwm.lora import LoRAConfig, with_lora

OptimizerFactory = Callable[..., torch.optim.Optimizer]
Network = TypeVar("Network", bound=nn.Module)


def warm_ema(decay: float) -> Callable[..., None]:
    """Exponential moving average whose decay grows as (1 + n) / (10 + n) up to `decay`: with a constant decay the EMA
    of a short run would consist of its first weights."""

    def update(ema: Any, current: Any, num_averaged: Tensor | int) -> None:
        n = int(num_averaged)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(ema, current, num_averaged)

    return update


def warmup_cosine(optimizer: torch.optim.Optimizer, *, warmup_steps: int, total_steps: int) -> dict[str, Any]:
    """Optimizer and scheduler for Lightning: linear warm-up, then half a cosine down to 0 at `total_steps`."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    scheduler = _ResumedLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class _ResumedLR(torch.optim.lr_scheduler.LambdaLR):
    """A scheduler whose resumed rates follow the present schedule from the first step on: a run that was to end there
    has a rate of 0 in its checkpoint."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for group, base, factor in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas):
            group["lr"] = base * factor(self.last_epoch)


class Learner(nn.Module, Generic[Network]):
    """One network of a stage. Validation, export and the next stage use `ema_model`."""

    def __init__(
        self,
        model: Network,
        *,
        optimizer: OptimizerFactory,
        schedule_steps: int,
        warmup_steps: int,
        ema_decay: float,
        lora: LoRAConfig | None = None,
    ) -> None:
        """lora: train adapters on `model`, which is frozen and may be shared with others; None: train all of it.

        Raises:
            ValueError: adapters are wanted of a network that is no DiT.
        """
        super().__init__()
        self.model: Network = model if lora is None else _adapted(model, lora)
        self.ema = AveragedModel(self.model, multi_avg_fn=warm_ema(ema_decay)).requires_grad_(False)
        self.make_optimizer, self._schedule_steps, self._warmup_steps = optimizer, schedule_steps, warmup_steps

    def update_ema(self) -> None:
        """Move the average towards the weights; the first call copies them."""
        self.ema.update_parameters(self.model)

    @property
    def ema_model(self) -> Network:
        """The averaged network; the network itself before its first step."""
        if self.ema.n_averaged == 0:
            return self.model
        return self.ema.module  # type: ignore[return-value]  # AveragedModel keeps a copy of what it was given

    def optimizers(self) -> dict[str, Any]:
        optimizer = self.make_optimizer([p for p in self.model.parameters() if p.requires_grad])
        # Not in on_train_batch_end: callbacks come first there, and a checkpoint would lack the step's average.
        self.ema_hook = optimizer.register_step_post_hook(lambda *_: self.update_ema())
        return warmup_cosine(optimizer, warmup_steps=self._warmup_steps, total_steps=self._schedule_steps)


def _adapted(model: Network, lora: LoRAConfig) -> Network:
    if not isinstance(model, DiT):
        raise ValueError(f"lora={lora} must be None of a {type(model).__name__}: only a DiT has adapters.")
    return with_lora(model, lora)  # type: ignore[return-value]  # Network is DiT here
