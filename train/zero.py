"""Gradients and optimizer divided among devices by DeepSpeed's ZeRO-2, for stages with one optimizer.

Weights and their EMAs stay whole on every device; `train.sharding` divides these too.
"""

import contextlib
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.strategies.strategy import Strategy
from torch import Tensor, nn
from torch.optim import Optimizer

from gwm.optional import optional_module
from train.checkpoint import read_checkpoint
from train.learner import Learner
from train.measure import autocast

COMMAND = "pip install 'gwm[scale]'"
CONFIG = {
    "train_micro_batch_size_per_gpu": 1,  # what DeepSpeed says of speed; batches are declared in data.steps
    "zero_allow_untested_optimizer": True,
    "zero_optimization": {"stage": 2},
}


class ZeroPrecision(DeepSpeedPrecision):
    """Products in bf16 by autocast. DeepSpeed's own bf16 would round the weights, and their EMAs with them."""

    def __init__(self, precision: Any, device: torch.device) -> None:
        super().__init__("32-true")
        self.products, self.device = precision, device

    def forward_context(self) -> contextlib.AbstractContextManager[Any]:
        with self.device:
            return autocast(self.products)

    def backward(self, tensor: Tensor, model: L.LightningModule, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        # Lightning has divided the loss by the number of passes already; DeepSpeed would do it again.
        super().backward(tensor, model, optimizer, *args, scale_wrt_gas=False, **kwargs)


class ZeroStrategy(DeepSpeedStrategy):
    """Lightning's DeepSpeed, also on CPUs (through gloo), with checkpoints in one file that any number of devices, also
    one without DeepSpeed, reads."""

    def __init__(self) -> None:
        """A strategy of DeepSpeed ZeRO with this module's CONFIG.

        Raises:
            MissingPackageError: DeepSpeed is not installed.
        """
        optional_module("deepspeed", COMMAND)
        super().__init__(config=deepcopy(CONFIG))  # DeepSpeed fills it in
        self._parameters: list[nn.Parameter] = []

    def setup_environment(self) -> None:
        # Not DeepSpeedStrategy's, which refuses CPUs.
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        # As DeepSpeedStrategy's, but for a check of numbers that CPUs do not have.
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def setup(self, trainer: L.Trainer) -> None:
        self.precision_plugin = ZeroPrecision(trainer.precision, self.root_device)
        super().setup(trainer)

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: Optimizer | None, lr_scheduler: Any = None
    ) -> tuple[Any, Any]:
        assert optimizer is not None, "every stage has an optimizer"
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for learner in self._learners():
            learner.ema_hook.remove()  # DeepSpeed puts new weights in place after its optimizer's step, not in it
        initialize = optional_module("deepspeed", COMMAND).initialize
        engine, divided, _, _ = initialize(
            config=self.config,
            model=model,
            model_parameters=self._parameters,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        return engine, divided

    def optimizer_step(
        self, optimizer: Optimizer, closure: Callable[[], Any], model: Any = None, **options: Any
    ) -> Any:
        result = super().optimizer_step(optimizer, closure, model, **options)
        if self.deepspeed_engine.was_step_applied():
            for learner in self._learners():
                learner.update_ema()
        return result

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Whole tensors, under the numbers that an optimizer on one device gives its parameters."""
        whole = optional_module("deepspeed.utils", COMMAND).safe_get_full_optimizer_state
        group, flat = _only_group(optimizer)
        kept = optimizer.optimizer.state[flat]
        state = {
            # Copies of what is not divided: an optimizer on one device counts the steps of each parameter apart.
            number: {key: whole(p, key).cpu() if _has_shape_of(v, flat) else deepcopy(v) for key, v in kept.items()}
            for number, p in enumerate(self._parameters)
            if kept
        }
        return {"state": state, "param_groups": [{**group, "params": list(range(len(self._parameters)))}]}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(self.broadcast(checkpoint_path), mmap=True)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        Strategy.load_model_state_dict(self, checkpoint, strict)
        for optimizer in self.optimizers:
            optimizer.refresh_fp32_params()  # type: ignore[attr-defined]  # DeepSpeed's own copy of this device's part

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        utils = optional_module("deepspeed.utils", COMMAND)
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            group, flat = _only_group(optimizer)
            group.update({key: value for key, value in saved["param_groups"][0].items() if key != "params"})
            if not saved["state"]:  # of a run that had not made a step
                continue
            number, first = next(iter(saved["state"].items()))
            divided = [key for key, value in first.items() if _has_shape_of(value, self._parameters[number])]
            state = {key: torch.zeros_like(flat) if key in divided else value for key, value in first.items()}
            optimizer.optimizer.state[flat] = state  # type: ignore[attr-defined]  # the optimizer inside DeepSpeed's
            utils.lazy_init_hp_params_optimizer_state(self._parameters, flat, {flat: state})
            for number, values in saved["state"].items():
                parameter = self._parameters[number]
                for key in divided:
                    utils.safe_set_full_optimizer_state(parameter, values[key].to(parameter.device), key)

    def _learners(self) -> list[Learner]:
        assert self.lightning_module is not None, "Lightning connects the module before it sets the strategy up"
        return [module for module in self.lightning_module.modules() if isinstance(module, Learner)]


def _only_group(optimizer: Any) -> tuple[dict[str, Any], Tensor]:
    """The group of the optimizer inside DeepSpeed's, and this device's part of all parameters in it."""
    (group,) = optimizer.optimizer.param_groups
    (flat,) = group["params"]
    return group, flat


def _has_shape_of(value: Any, parameter: Tensor) -> bool:
    """Whether an optimizer keeps such a value for every number of a parameter: not its count of steps."""
    return isinstance(value, Tensor) and value.shape == parameter.shape
