"""A network under training, its running average and its optimizer: what every stage has one or two of."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gwm.dit import DiT
from gwm.lora import LoRAConfig, with_lora
from train.optim import warmup_cosine

OptimizerFactory = Callable[..., torch.optim.Optimizer]
Network = TypeVar("Network", bound=nn.Module)


def warm_average(decay: float) -> Callable[..., None]:
    """Exponential mean whose decay grows as (1 + n) / (10 + n) up to `decay`: the average of a short run would else
    consist of the weights it started with."""

    def update(averaged: Any, current: Any, num_averaged: Tensor | int) -> None:
        n = int(num_averaged)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, num_averaged)

    return update


class Trainee(nn.Module, Generic[Network]):
    """`trained`, the running average, is what validation, export and the next stage use."""

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
        self.average = AveragedModel(self.model, multi_avg_fn=warm_average(ema_decay)).requires_grad_(False)
        self._optimizer, self._schedule_steps, self._warmup_steps = optimizer, schedule_steps, warmup_steps

    def average_step(self) -> None:
        """The first call copies the weights, so that the average is valid from then on."""
        self.average.update_parameters(self.model)

    @property
    def trained(self) -> Network:
        return self.averaged if self.average.n_averaged > 0 else self.model

    @property
    def averaged(self) -> Network:
        return self.average.module  # type: ignore[return-value]  # AveragedModel keeps a copy of what it was given

    def optimizers(self) -> dict[str, Any]:
        optimizer = self._optimizer([p for p in self.model.parameters() if p.requires_grad])
        # Not in on_train_batch_end: callbacks come first there, and a checkpoint would lack the step's average.
        self.averaging = optimizer.register_step_post_hook(lambda *_: self.average_step())
        return warmup_cosine(optimizer, warmup_steps=self._warmup_steps, total_steps=self._schedule_steps)


def _adapted(model: Network, lora: LoRAConfig) -> Network:
    if not isinstance(model, DiT):
        raise ValueError(f"lora={lora} must be None of a {type(model).__name__}: only a DiT has adapters.")
    return with_lora(model, lora)  # type: ignore[return-value]  # Network is DiT here
