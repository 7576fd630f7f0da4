"""A network under training, its running average and its optimizer: what every stage has one or two of."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from train.optim import warmup_cosine

OptimizerFactory = Callable[..., torch.optim.Optimizer]
Network = TypeVar("Network", bound=nn.Module)


class Trainee(nn.Module, Generic[Network]):
    """Call `average_step` after every update; `trained` is what validation, export and the next stage use."""

    def __init__(
        self,
        model: Network,
        *,
        optimizer: OptimizerFactory,
        schedule_steps: int,
        warmup_steps: int,
        ema_decay: float,
    ) -> None:
        super().__init__()
        self.model: Network = model
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema_decay)).requires_grad_(False)
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
        return warmup_cosine(
            self._optimizer(self.model.parameters()), warmup_steps=self._warmup_steps, total_steps=self._schedule_steps
        )
