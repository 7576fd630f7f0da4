"""How a stream is divided among processes."""

import logging
import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from gwm.contract import Contract
from gwm.dit import DiT
from gwm.rollout import Guided, GuidedRollout, Rollout
from serve.parallel.ranks import WAYS, Ranks, local_config
from serve.parallel.tensor_parallel import check_width, tensor_rollout
from serve.parallel.ulysses import StripRollout, check_rows

log = logging.getLogger(__name__)

TIMEOUT = timedelta(seconds=60)  # after which a process that does not answer within a chunk counts as dead


def rollout_of(
    model: DiT,
    contract: Contract,
    ranks: Ranks | None,
    guided: Guided | None = None,
) -> Rollout:
    """This process's part of a stream.

    Raises:
        ValueError: the model cannot be divided by so many processes, or has guidance.
    """
    if ranks is None:
        if model.head.weight.is_cuda:  # on CPUs one product is hardly faster than three
            model.pack()
        if guided is None:
            return Rollout(model, contract)
        return GuidedRollout(model, contract, guided)
    if guided is not None:
        raise ValueError(f"{ranks.size} processes must not share a stream with guidance. Start one, without torchrun.")
    log.info("process %d of %d, divided by %s", ranks.rank, ranks.size, ranks.way)
    return StripRollout(model, contract, ranks) if ranks.way == "ulysses" else tensor_rollout(model, contract, ranks)


def join(way: str) -> Ranks | None:
    """The processes that torchrun started, one per GPU where there are any; None for one that runs alone.

    Raises:
        ValueError: an unknown way to divide.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    if way not in WAYS:
        raise ValueError(f"parallel={way!r} must be one of {WAYS}.")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    else:
        device = torch.device("cpu")
    return _meet(device, way)


def meet(file: str, device: torch.device | str, *, rank: int, size: int, way: str) -> Ranks:
    """The processes of this machine that meet at a file, which must not exist before the first of them comes.

    Raises:
        RuntimeError: they do not meet.
    """
    return _meet(torch.device(device), way, init_method=f"file://{file}", rank=rank, world_size=size)


def check_division(contract: Contract, size: int, way: str) -> None:
    """Refuse a number of processes that cannot divide this model, before they are started.

    Raises:
        ValueError: heads, inner width or rows do not divide; the message says which.
    """
    local_config(contract.dit, size)
    if way == "ulysses":
        check_rows(contract, size)
    else:
        check_width(contract.dit, size)


def _meet(device: torch.device, way: str, **where: Any) -> Ranks:
    if device.type == "cuda":
        torch.cuda.set_device(device)
        where["device_id"] = device
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT, **where)
    return Ranks(device, way=way)
