"""What a run will need: `python train.py stage=causal plan=true`.

Activations are all bytes that are alive at once besides weights, gradients and optimizer; what libraries and the
allocator take comes on top: leave 10 to 20 % of a device free.
"""

import logging
from dataclasses import dataclass, replace

from hydra.utils import instantiate
from omegaconf import DictConfig

from data.steps import split_batch
from train.measure import PRECISIONS
from train.needs import Needs, PlannedRun, described, needs
from train.peak import matmul_flops

log = logging.getLogger(__name__)

SECONDS_A_DAY = 86_400
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Plan:
    """Needs of one device, in bytes, and of a step of the whole run."""

    trained_parameters: int  # of all devices together
    frozen_parameters: int  # what networks share is counted once; what stays on the host is not
    weight_bytes: int  # of trained and frozen networks and of EMAs
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int  # with caches of rollouts
    tokens_per_step: int
    flops_per_step: float
    steps_per_day: float
    host_bytes: int = 0  # of frozen weights that come to the device when they are needed

    @property
    def device_bytes(self) -> int:
        kept = self.weight_bytes + self.gradient_bytes + self.optimizer_bytes
        return kept + self.activation_bytes

    def lines(self) -> list[str]:
        rows: list[tuple[str, int]] = [
            ("weights", self.weight_bytes),
            ("gradients", self.gradient_bytes),
            ("optimizer", self.optimizer_bytes),
            ("activations", self.activation_bytes),
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


def plan(run: PlannedRun, found: Needs) -> Plan:
    """Needs of a run whose devices share every batch.

    Raises:
        ValueError: a batch that cannot be divided.
    """
    _, num_passes = split_batch(run.batch_size, run.device_batch, run.devices)
    share, devices = run.devices if run.sharded else 1, run.devices
    peak = matmul_flops(PRECISIONS[run.precision]) if run.device_flops is None else run.device_flops
    weights, flops = found.trained + found.frozen + found.averaged, devices * num_passes * found.flops
    whole, divided = (weights, found.trained) if run.whole_weights else (0, weights)
    return Plan(
        trained_parameters=found.trained,
        frozen_parameters=found.frozen,
        weight_bytes=FLOAT_BYTES * whole + FLOAT_BYTES * divided // share,
        gradient_bytes=FLOAT_BYTES * found.trained // share,
        optimizer_bytes=found.optimizer_bytes // share,
        activation_bytes=max(found.peaks),
        tokens_per_step=devices * num_passes * found.tokens,
        flops_per_step=flops,
        steps_per_day=SECONDS_A_DAY * (run.utilization * peak) * devices / flops,
        host_bytes=found.host_bytes,
    )


def show(cfg: DictConfig) -> None:
    """Print the plan of a composed config."""
    run: PlannedRun = instantiate(cfg.planner)
    origin = "measured here" if run.device_flops is None else "given"
    if run.device_flops is None:
        run = replace(run, device_flops=matmul_flops(PRECISIONS[run.precision]))
    assert run.device_flops is not None
    build, num_layers = described(cfg)
    for line in plan(run, needs(build, run, num_layers=num_layers)).lines():
        log.info("%s", line)
    log.info(
        "             at %.0f %% of %.3g TFLOP/s (%s) on each of %d devices",
        100 * run.utilization,
        run.device_flops / 1e12,
        origin,
        run.devices,
    )
