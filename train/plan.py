"""What a run will need, found by computing the stage's own training step on tensors that have shapes and no storage.

`python train.py stage=causal plan=true`. What earlier stages have not left yet has random weights, in the shape that the
config gives. Activations are all bytes that are alive at once besides weights, gradients and optimizer; what libraries
and the allocator take comes on top: leave 10 to 20 % of a device free.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NamedTuple

import lightning as L
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from data.steps import StepData, split_batch
from gwm.autoencoders.families import autoencoder_config, build_autoencoder
from gwm.autoencoders.haar import HaarConfig
from gwm.autoencoders.protocol import KIND, AutoencoderConfig
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.lora import is_adapted
from gwm.resolution import Resolution
from gwm.wan.vae_config import WAN2_1_VAE, WAN2_2_VAE
from gwm.weights import is_written_here, read_header, save_weights
from train.learner import Learner, OptimizerFactory
from train.measure import PRECISIONS, Meter, autocast, checkpoint_blocks
from train.networks import Base, dit_header
from train.peak import matmul_flops

log = logging.getLogger(__name__)

SECONDS_A_DAY = 86_400
FLOAT_BYTES = 4
DEPTHS = (2, 3)  # layers of networks that are computed; every further layer needs as much as the last (one alone does not)
PROBE_SIZES = (64, 128, 256)  # of parameters on which an optimizer shows what it keeps

Build = Callable[[int | None], tuple[L.LightningModule, StepData]]  # a stage and its data; of so many layers


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
    period: int = 1  # batches after which the work repeats: of DMD, the first has a step of the student
    stream_frames: int = 0  # > 0: a batch goes on with the streams of the one before

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


def described(cfg: DictConfig) -> tuple[Build, int | None]:
    """How the stage of a config is built without the weights that it starts from, and the layers of its networks.

    Its contract is that of the model that it would start from; as long as there is none, of the configured one.
    """
    roles = {} if "config" in cfg.stage else {role: cfg.stage[role] for role in ("init", "teacher") if role in cfg.stage}
    contracts = {role: _contract(cfg, folder) for role, folder in roles.items()}
    changes = {"exit": "last"} if "exit" in cfg.stage else {}  # what a batch needs at most
    encoders = {"text": None, "image": None} if "text" in cfg.data else {}

    def build(num_layers: int | None) -> tuple[L.LightningModule, StepData]:
        vae = {"vae": build_autoencoder(_autoencoder(cfg)) if cfg.stage.get("reward") else None} if encoders else {}
        data = instantiate(cfg.data, _convert_="all", device_batch=cfg.device_batch, **encoders, **vae)
        with TemporaryDirectory() as folder:
            for role, contract in contracts.items():
                if num_layers is not None:
                    contract = contract.replace(dit=dataclasses.replace(contract.dit, num_layers=num_layers))
                save_weights(Path(folder) / role, {}, dit_header(contract))
            folders = {role: f"{folder}/{role}" for role in contracts}
            return instantiate(cfg.stage, _convert_="all", **changes, **folders), data

    if not contracts or cfg.stage.get("gan"):  # a discriminator names layers, so that all must be there
        return build, None
    return build, contracts["init"].dit.num_layers


def _contract(cfg: DictConfig, folder: str | None) -> Contract:
    if folder is not None and is_written_here(Path(folder)):
        return Contract.from_json(read_header(Path(folder), kind="dit").contract)
    base = Base(
        model=instantiate(cfg.model, _convert_="all"),
        vae=_autoencoder(cfg),
        speech=cfg.speech,
        audio=instantiate(cfg.audio),
        resolution=Resolution.parse(str(cfg.resolution)),
        num_frames=cfg.num_frames,
    )
    whole = base.contract()
    return whole if "model" in cfg.stage else whole.replace(pattern=instantiate(cfg.pattern))


def _autoencoder(cfg: DictConfig) -> AutoencoderConfig:
    """What a stage left there; else the published one for whose latents the model is shaped, or gwm's own."""
    if not isinstance(cfg.vae, str):
        return instantiate(cfg.vae, _convert_="all")
    if is_written_here(Path(cfg.vae)):
        return autoencoder_config(read_header(Path(cfg.vae), kind=KIND).config)
    published = {config.latent_channels: config for config in (WAN2_1_VAE, WAN2_2_VAE)}
    return published[cfg.model.in_channels] if "in_channels" in cfg.model else HaarConfig()


class Needs(NamedTuple):
    """What one device computes and keeps for the samples that it takes at once; all of it linear in the layers."""

    trained: int  # numbers
    frozen: int
    averaged: int  # numbers that EMAs have of their own
    optimizer_bytes: int
    host_bytes: int
    tokens: int
    flops: float  # of a batch on average
    peaks: tuple[int, ...]  # bytes alive besides weights and gradients, in each stretch between two evaluations


def needs(build: Build, run: PlannedRun, *, num_layers: int | None) -> Needs:
    """Needs of a stage, counted on networks of two and of three layers: each further layer adds what the third one does.

    num_layers: of the stage's networks; None: they are counted as they are.

    Raises:
        ValueError: an unknown precision, nothing to checkpoint, or data that cannot be planned with.
    """
    if num_layers is None or num_layers <= max(DEPTHS):
        return _counted(build, run, None)
    one, two = (_counted(build, run, depth) for depth in DEPTHS)

    def deep(a: Any, b: Any) -> Any:
        return tuple(map(deep, a, b)) if isinstance(a, tuple) else a + (num_layers - DEPTHS[0]) * (b - a)

    assert len(one.peaks) == len(two.peaks), "both depths make the same evaluations"
    return Needs(*map(deep, tuple(one), tuple(two)))


def _counted(build: Build, run: PlannedRun, num_layers: int | None) -> Needs:
    at_once, _ = split_batch(run.batch_size, run.device_batch, run.devices)
    with FakeTensorMode(allow_non_fake_inputs=True):  # constants of modules, made on import
        with Meter(bytes_too=False):  # for numbers alone
            stage, data = build(num_layers)
        if run.checkpointed and not checkpoint_blocks([stage]):
            raise ValueError("checkpointed=true needs a DiT: this stage has no blocks to compute again.")
        batch = data.random_batch(at_once, stage)
        _attach(stage, data)
        for parameter in stage.parameters():  # as in all passes but the first: gradients are there
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        meter = Meter(_tensors(stage, batch))
        for module in stage.modules():
            if isinstance(module, DiT):
                module.register_forward_pre_hook(meter.mark)
                module.register_forward_hook(meter.mark)
        flops = []
        warmup = (1,) if run.stream_frames else ()
        for step in (*warmup, 0, 1) if run.period > 1 else (0,):
            if run.period > 1:
                batch.step = step
            before = meter.flops + meter.flops_again
            with meter:
                _compute(stage, batch, run.precision)
            flops.append(meter.flops + meter.flops_again - before)
            meter.mark()
        flops_per_batch = (flops[-2:][0] + (run.period - 1) * flops[-1]) / run.period
    learners = [module for module in stage.modules() if isinstance(module, Learner)]
    moved = [[p.numel() for p in learner.model.parameters() if p.requires_grad] for learner in learners]
    kept = [optimizer_bytes(one.make_optimizer, sum(x), len(x)) for one, x in zip(learners, moved, strict=True)]
    frozen, averaged = _frozen(stage, learners)
    host_bytes, tokens = _bytes(_unregistered(stage)), at_once * stage.sample_tokens
    return Needs(sum(map(sum, moved)), frozen, averaged, sum(kept), host_bytes, tokens, flops_per_batch, tuple(meter.peaks))


def _attach(stage: Any, data: StepData) -> None:
    """Give a stage what its training step asks of Lightning's trainer, in a pass between the first and the last of a
    batch: no optimizer moves, and nothing is logged."""
    stage.trainer = SimpleNamespace(datamodule=data, world_size=1, ckpt_path=None)
    stage.log = stage.log_dict = lambda *_, **__: None
    stage.manual_backward = Tensor.backward
    stage.optimizers = stage.lr_schedulers = lambda **_: [None] * 3
    stage.setup("fit")
    data.stay_between_passes()


def _compute(stage: L.LightningModule, batch: Any, precision: str) -> None:
    with autocast(precision):
        loss = stage.training_step(batch, 0)
    if isinstance(loss, Tensor):  # else the stage has called backward itself
        loss.backward()


def _tensors(stage: nn.Module, batch: Any) -> list[Tensor]:
    """What is there before a step: of the stage, also what lies on the host, and the batch."""
    own = [*stage.parameters(), *stage.buffers(), *(p.grad for p in stage.parameters() if p.grad is not None)]
    return [*own, *_unregistered(stage), *(x for x in tree_leaves(vars(batch)) if isinstance(x, Tensor))]


def _unregistered(stage: nn.Module) -> list[Tensor]:
    """Tensors that networks of a stage hold and that are no parameters: weights on the host."""
    held = [value for module in stage.modules() if module is not stage for value in vars(module).values()]
    return [value for value in held if isinstance(value, Tensor)]


def _frozen(stage: nn.Module, learners: list[Learner[Any]]) -> tuple[int, int]:
    """Numbers that are frozen, and that EMAs have of their own: they share what adapters stand on."""
    averages = {id(p) for learner in learners for p in learner.ema.parameters()}
    frozen = [p for p in stage.parameters() if not p.requires_grad and id(p) not in averages]
    networks = [(learner.model, is_adapted(learner.model)) for learner in learners]
    own = sum(p.numel() for model, adapted in networks for p in model.parameters() if p.requires_grad or not adapted)
    return _bytes(frozen) // FLOAT_BYTES, own


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Of all storages behind these tensors, each once."""
    return sum({x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in tensors}.values())


def plan(build: Build, run: PlannedRun, *, num_layers: int | None = None, counted: Needs | None = None) -> Plan:
    """Needs of a run whose devices share every batch.

    num_layers: as in `needs`. counted: `needs` of this stage, batch and precision, where they are known already.

    Raises:
        ValueError: a batch that cannot be divided, an unknown precision, nothing to checkpoint.
    """
    _, num_passes = split_batch(run.batch_size, run.device_batch, run.devices)
    share, devices = run.devices if run.sharded else 1, run.devices
    found = counted or needs(build, run, num_layers=num_layers)
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
        run = dataclasses.replace(run, device_flops=matmul_flops(PRECISIONS[run.precision]))
    assert run.device_flops is not None
    build, num_layers = described(cfg)
    for line in plan(build, run, num_layers=num_layers).lines():
        log.info("%s", line)
    log.info(
        "             at %.0f %% of %.3g TFLOP/s (%s) on each of %d devices",
        100 * run.utilization,
        run.device_flops / 1e12,
        origin,
        run.devices,
    )
