"""What a run will need, found by computing one batch on tensors that have shapes and no storage.

`python train.py stage=causal plan=true`. Activations are what autograd keeps for the backward pass; on top of them come
the temporary tensors of single operations, and what the allocator wastes: leave 10 to 20 % of a device free.
"""

import dataclasses
import logging
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef

from data.steps import split_batch
from gwm.block import DiTBlock
from gwm.lora import is_adapted
from train.learner import OptimizerFactory
from train.measure import PRECISIONS, checkpoint_blocks, matmul_flops, measure_pass
from train.work import Work, WorkBuilder

log = logging.getLogger(__name__)

SECONDS_A_DAY = 86_400
FLOAT_BYTES = 4
DEPTHS = (1, 2)  # layers of networks that are computed; every further layer needs as much as the second one
PROBE_SIZES = (64, 128, 256)  # of parameters on which an optimizer shows what it keeps


@dataclass(frozen=True)
class Plan:
    """Needs of one device, in bytes, and of a step of the whole run."""

    trained_parameters: int  # of all devices together
    frozen_parameters: int  # what networks share is counted once; what stays on the host is not
    weight_bytes: int  # of trained and frozen networks and of EMAs
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    cache_bytes: int
    tokens_per_step: int
    flops_per_step: float
    steps_per_day: float
    host_bytes: int = 0  # of frozen weights that come to the device when they are needed

    @property
    def device_bytes(self) -> int:
        kept = self.weight_bytes + self.gradient_bytes + self.optimizer_bytes
        return kept + self.activation_bytes + self.cache_bytes

    def lines(self) -> list[str]:
        rows: list[tuple[str, int]] = [
            ("weights", self.weight_bytes),
            ("gradients", self.gradient_bytes),
            ("optimizer", self.optimizer_bytes),
            ("activations", self.activation_bytes),
            ("cache", self.cache_bytes),
            ("together", self.device_bytes),
        ]
        host = [f"host         {self.host_bytes / 1e9:10.3f} GB of frozen weights"] if self.host_bytes else []
        return [
            f"parameters   {self.trained_parameters:,} trained, {self.frozen_parameters:,} frozen",
            *(f"{name:12s} {size / 1e9:10.3f} GB a device" for name, size in rows),
            *host,
            f"a step       {self.tokens_per_step:,} tokens, {self.flops_per_step / 1e12:.4g} TFLOP",
            f"a day        {self.steps_per_day:,.0f} steps",
        ]


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """How a stage is run: its batch, its devices and what they divide among them."""

    batch_size: int
    device_batch: int | None  # samples that a device computes at once; None: its whole share
    precision: str
    devices: int
    sharded: bool  # parameters, gradients, EMAs and optimizer are divided among the devices, as FSDP does
    whole_weights: bool = False  # of these, parameters and EMAs are not, as in ZeRO-2, which keeps a copy that is
    checkpointed: bool  # blocks keep their inputs alone; one of them at a time is computed again
    device_flops: float | None  # operations a second of one device's matrix products; None: measured on this machine
    utilization: float = 1.0  # share of them that training reaches

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise ValueError(f"devices={self.devices} must be at least 1.")


def optimizer_bytes(factory: OptimizerFactory, num_elements: int, num_tensors: int) -> int:
    """What an optimizer keeps after its first step for so many parameters in so many tensors.

    Found on three small parameters; no optimizer is made for the real ones.

    Raises:
        ValueError: its state does not grow in proportion to the parameter's size.
    """
    small, middle, large = (_state_bytes(factory, size) for size in PROBE_SIZES)
    a, b, c = PROBE_SIZES
    per_element, rest = divmod(middle - small, b - a)
    if rest or large - middle != per_element * (c - b):
        raise ValueError(
            f"the optimizer keeps {small}, {middle} and {large} bytes for {a}, {b} and {c} parameters: no fixed number "
            "for each. Plan with an elementwise one, such as AdamW, and correct by hand."
        )
    return per_element * num_elements + (small - per_element * a) * num_tensors


def _state_bytes(factory: OptimizerFactory, size: int) -> int:
    parameter = nn.Parameter(torch.zeros(size))
    parameter.grad = torch.ones(size)
    optimizer = factory([parameter])
    optimizer.step()
    return sum(value.nbytes for value in optimizer.state[parameter].values() if isinstance(value, Tensor))


class Needs(NamedTuple):
    """What one device computes and keeps for the samples that it takes at once."""

    counts: tuple[int, ...]  # numbers trained, tensors of them, numbers frozen, numbers of EMAs, layers
    kept: tuple[int, ...]  # bytes for the backward pass, of each pass
    block: tuple[int, ...]  # bytes of all blocks that are computed again, of each pass; (): none is
    flops: tuple[float, ...]  # of each pass
    others: tuple[int, ...]  # bytes of the cache and on the host; tokens of the batch


def needs(build: WorkBuilder, *, at_once: int, precision: str, checkpointed: bool) -> Needs:
    """Needs of a stage, counted on networks of one and of two layers: each further layer adds what the second one does.

    Raises:
        ValueError: an unknown precision, or nothing to checkpoint.
    """
    layers = _num_layers(build)
    if layers is None or layers <= max(DEPTHS):
        return _counted(build, at_once, precision, checkpointed)
    one, two = (_counted(_of_depth(build, depth), at_once, precision, checkpointed) for depth in DEPTHS)
    fields: Any = (tuple(a + (layers - 1) * (b - a) for a, b in zip(x, y)) for x, y in zip(one, two))
    return Needs(*fields)


def _num_layers(build: WorkBuilder) -> int | None:
    """Of a stage that a contract describes; a discriminator names layers, so that all must be there."""
    if not isinstance(build, partial) or "contract" not in build.keywords or build.keywords.get("gan") is not None:
        return None
    return build.keywords["contract"].dit.num_layers


def _of_depth(build: Any, num_layers: int) -> WorkBuilder:
    contract = build.keywords["contract"]
    return partial(build, contract=contract.replace(dit=dataclasses.replace(contract.dit, num_layers=num_layers)))


def _counted(build: WorkBuilder, at_once: int, precision: str, checkpointed: bool) -> Needs:
    with FakeTensorMode(allow_non_fake_inputs=True):  # constants of modules, made on import
        work, block = build(batch_size=at_once), ()
        # Of the deepest network: beside two DiTs there may be a head without blocks.
        if checkpointed and not max(checkpoint_blocks([model], reentrant=True) for model in work.trained):
            raise ValueError("checkpointed=true needs a DiT: this stage has no blocks to compute again.")
        kept, flops = zip(*(measure_pass(work, one, precision) for one in work.passes), strict=True)
        if checkpointed:
            whole = build(batch_size=at_once)
            # What keeps nothing is not looked at again.
            passes = zip(kept, whole.passes, strict=True)
            block = tuple(measure_pass(whole, one, precision)[0] if some else 0 for some, one in passes)
        return Needs(_counts(work), kept, block, flops, (work.cache_bytes, work.host_bytes, work.tokens))


def plan(build: WorkBuilder, optimizer: OptimizerFactory, run: PlannedRun, *, counted: Needs | None = None) -> Plan:
    """Needs of a run whose devices share every batch.

    counted: `needs` of this stage, batch and precision, where they are known already.

    Raises:
        ValueError: a batch that cannot be divided, an unknown precision, nothing to checkpoint.
    """
    at_once, num_passes = split_batch(run.batch_size, run.device_batch, run.devices)
    share, devices = run.devices if run.sharded else 1, run.devices
    found = counted or needs(build, at_once=at_once, precision=run.precision, checkpointed=run.checkpointed)
    peak = matmul_flops(PRECISIONS[run.precision]) if run.device_flops is None else run.device_flops
    num_trained, num_tensors, num_frozen, num_ema, layers = found.counts
    cache_bytes, host_bytes, tokens = found.others
    weights = FLOAT_BYTES * (num_trained + num_frozen + num_ema)
    flops = devices * num_passes * sum(found.flops)
    again = [whole // layers for whole in found.block] or [0] * len(found.kept)
    return Plan(
        trained_parameters=num_trained,
        frozen_parameters=num_frozen,
        weight_bytes=weights + FLOAT_BYTES * num_trained // share if run.whole_weights else weights // share,
        gradient_bytes=FLOAT_BYTES * num_trained // share,
        optimizer_bytes=optimizer_bytes(optimizer, num_trained, num_tensors) // share,
        activation_bytes=max(kept + block for kept, block in zip(found.kept, again)),
        cache_bytes=cache_bytes,
        tokens_per_step=devices * num_passes * tokens,
        flops_per_step=flops,
        steps_per_day=SECONDS_A_DAY * (run.utilization * peak) * devices / flops,
        host_bytes=host_bytes,
    )


def _counts(work: Work) -> tuple[int, ...]:
    """Numbers that are trained and tensors that hold them, numbers that are frozen, and that EMAs have of their own:
    an EMA shares what adapters stand on, and has copies of all else. Blocks of the deepest network."""
    trained, ema, frozen = [], 0, {}
    for model in [*work.trained, *work.frozen]:
        trained += [p.numel() for p in model.parameters() if p.requires_grad]
        frozen |= {StorageWeakRef(p.untyped_storage()): p.numel() for p in model.parameters() if not p.requires_grad}
    for model in work.trained:
        ema += sum(p.numel() for p in model.parameters() if p.requires_grad or not is_adapted(model))
    layers = max(sum(isinstance(part, DiTBlock) for part in model.modules()) for model in work.trained)
    return sum(trained), len(trained), sum(frozen.values()), ema, layers


def show(build: WorkBuilder, optimizer: OptimizerFactory, run: PlannedRun) -> None:
    """Print a plan."""
    origin = "measured here" if run.device_flops is None else "given"
    if run.device_flops is None:
        run = dataclasses.replace(run, device_flops=matmul_flops(PRECISIONS[run.precision]))
    assert run.device_flops is not None
    for line in plan(build, optimizer, run).lines():
        log.info("%s", line)
    log.info(
        "             at %.0f %% of %.3g TFLOP/s (%s) on each of %d devices",
        100 * run.utilization,
        run.device_flops / 1e12,
        origin,
        run.devices,
    )
