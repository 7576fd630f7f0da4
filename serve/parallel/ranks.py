"""Several processes that denoise one stream together: the first one sends orders, the others carry them out."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from datetime import timedelta
from enum import IntEnum

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from gwm.cache import RingCache
from gwm.condition.inputs import Conditions
from gwm.config import DiTConfig

IDLE = timedelta(days=365)  # that the others may wait for an order: a live stream may pause, or not have begun
WAYS = ("ulysses", "tensor")  # strips of rows outside of attention, or all tokens and parts of the weights


class Order(IntEnum):
    """What the first process has the others do; `START` carries the seed, `REWIND` the number of chunks."""

    START = 0
    TEXT = 1
    CHUNK = 2
    REWIND = 3
    STOP = 4
    MAKE = 5  # an engine of one more stream


class Ranks:
    """Processes with a device each. The first takes inputs and decodes; the others do what it does to the latents.

    Once a chunk the first process sends its order and the conditions of its frames, a text when it changes, and nothing
    else: noise is drawn from the seed everywhere. A process that dies is an error in all others, after the group's
    timeout at the latest.
    """

    def __init__(self, device: torch.device | str = "cpu", *, way: str = "ulysses") -> None:
        """way: one of `WAYS`. All processes make this together, behind `serve.parallel.parallelize.join` or `meet`."""
        self.device, self.way = torch.device(device), way
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        orders = dist.new_group(backend="gloo", timeout=IDLE)
        assert isinstance(orders, dist.ProcessGroup), "all processes are in it"
        self.orders = orders
        self.stream = 0  # which of several, each with an engine in every process

    def of_stream(self, number: int) -> "Ranks":
        """The same processes, with orders for the engine of another stream."""
        other = copy.copy(self)
        other.stream = number
        return other

    def send_order(self, order: Order, *tensors: Tensor, value: int = 0) -> None:
        """The first process: send an order and what belongs to it. The others carry it out already."""
        if self.rank == 0:
            dist.broadcast(torch.tensor([order, self.stream, value]), src=0, group=self.orders)
            for tensor in tensors:
                dist.broadcast(tensor.contiguous(), src=0)  # the others receive into contiguous storage

    def next_order(self) -> tuple[Order, int, int]:
        """The others: wait for the next order; it, its stream and its value."""
        received = torch.zeros(3, dtype=torch.long)
        dist.broadcast(received, src=0, group=self.orders)
        order, stream, value = received.tolist()
        return Order(order), stream, value

    def receive(self, like: Sequence[Tensor]) -> list[Tensor]:
        """The others: the tensors of an order, shaped like these."""
        made = [tensor.new_empty(tensor.shape) for tensor in like]
        for tensor in made:
            dist.broadcast(tensor, src=0)
        return made

    def wait_for_all(self) -> None:
        """Wait until all processes are here, however long one of them takes."""
        dist.barrier(group=self.orders)

    def sum(self, x: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        dist.all_reduce(x)
        return x

    def rows(self, strip: Float[Tensor, "b f c _ w"]) -> Float[Tensor, "b f c h w"]:
        """The picture whose strips of rows the processes have."""
        strip = strip.contiguous()
        strips = [torch.empty_like(strip) for _ in range(self.size)]
        dist.all_gather(strips, strip)
        return torch.cat(strips, dim=-2)


def tensors_of(condition: Conditions) -> list[Tensor]:
    """The conditions that are there."""
    return list(condition.flat().values())


def with_tensors(example: Conditions, tensors: Sequence[Tensor]) -> Conditions:
    """Inverse of `tensors_of`, for conditions of the same kinds as `example`."""
    return Conditions.from_flat(dict(zip(example.flat(), tensors, strict=True)))


def local_config(dit: DiTConfig, size: int) -> DiTConfig:
    """The shape that one of `size` processes sees.

    Raises:
        ValueError: the heads do not divide.
    """
    if dit.num_heads % size:
        raise ValueError(
            f"num_heads={dit.num_heads} must be a multiple of the {size} processes: each has as many. Start another "
            "number of processes."
        )
    return dataclasses.replace(dit, dim=dit.dim // size, num_heads=dit.num_heads // size)


def local_cache(ranks: Ranks) -> Callable[..., RingCache]:
    """Makes caches of the own heads."""
    return lambda dit, pattern, **rest: RingCache(local_config(dit, ranks.size), pattern, **rest)
