"""Networks whose weights, gradients, EMAs and optimizer are divided among devices (FSDP2)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from gwm.autoencoders.haar import HaarAutoencoder
from gwm.dit import DiT
from train.checkpoint import read_checkpoint


def shard(networks: nn.Module, mesh: DeviceMesh) -> None:
    """Divide every DiT (block by block, so that one block at a time is whole) and every autoencoder below a module."""
    for network in list(networks.modules()):
        if isinstance(network, DiT):
            parts: list[nn.Module] = [*network.blocks, network]
        elif isinstance(network, HaarAutoencoder):
            parts = [network.encoder, network.decoder]  # its own methods are not `forward`
        else:
            continue
        for part in parts:
            # Also the last part, which by default stays whole until its backward pass: EMAs have none.
            fully_shard(part, mesh=mesh, reshard_after_forward=True)


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's FSDP2, with checkpoints in one file that any number of devices, also one without sharding, reads.

    Stages need no hook of their own: their networks are divided here.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: L.Trainer) -> None:
        assert self.model is not None, "Lightning connects the model before it sets the strategy up"
        shard(self.model, self.device_mesh["data_parallel"])
        # ModelParallelStrategy.setup would ask every stage for a configure_model of its own.
        super(ParallelStrategy, self).setup(trainer)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Whole tensors, under the numbers that an optimizer on one device gives its parameters."""
        state = optimizer.state_dict()
        return {**state, "state": {number: _whole(values) for number, values in state["state"].items()}}

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        checkpoint = read_checkpoint(self.broadcast(checkpoint_path), mmap=True)
        assert self.model is not None, "the model is set up before its weights are restored"
        set_model_state_dict(self.model, checkpoint["state_dict"], options=StateDictOptions(full_state_dict=True))
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(_divided(state, optimizer))
        return checkpoint


def _whole(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: v.full_tensor().cpu() if isinstance(v, DTensor) else v for key, v in values.items()}


def _divided(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """A state of whole tensors with those that belong to divided parameters divided alike."""
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def part(value: Any, parameter: Tensor) -> Any:
        if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value
        value = value.to(parameter.device)
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)

    divided = {
        number: {key: part(value, parameter) for key, value in state["state"][number].items()}
        for number, parameter in zip(numbers, parameters, strict=True)
        if number in state["state"]
    }
    return {**state, "state": divided}
