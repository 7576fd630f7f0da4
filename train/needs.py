"""What a stage computes and keeps: its own training step on a random batch, on tensors that have shapes and no storage.

What earlier stages have not left yet has random weights, in the shape that the config gives.
"""

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from train.measure import Meter, autocast, checkpoint_blocks
from train.networks import Base, dit_header

DEPTHS = (
    2,
    3,
)  # layers of networks that are computed; every further one needs as much as the last (one alone does not)
PROBE_SIZES = (64, 128, 256)  # of parameters on which an optimizer shows what it keeps

Build = Callable[[int | None], tuple[L.LightningModule, StepData]]  # a stage and its data; of so many layers


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


def described(cfg: DictConfig) -> tuple[Build, int | None]:
    """How the stage of a config is built without the weights that it starts from, and the layers of its networks.

    Its contract is that of the model that it would start from; as long as there is none, of the configured one.

    Raises:
        ValueError: the stage cannot be planned.
    """
    if "call" in cfg or not cfg.planned:
        raise ValueError("plan=true needs a stage that trains on clips or crops, and this one does not.")
    roles = () if "config" in cfg.stage else ("init", "teacher")
    contracts = {role: planned_contract(cfg, cfg.stage[role]) for role in roles if role in cfg.stage}
    # Rollouts of all steps, what a batch needs at most; without a reward, which decodes.
    changes = {name: value for name, value in {"exit": "last", "reward": None}.items() if name in cfg.stage}
    without = {name: None for name in ("text", "image") if name in cfg.data}

    def build(num_layers: int | None) -> tuple[L.LightningModule, StepData]:
        coded = {"vae": build_autoencoder(_autoencoder(cfg))} if "vae" in cfg.data else {}
        data = instantiate(cfg.data, _convert_="all", device_batch=cfg.device_batch, **coded, **without)
        with TemporaryDirectory() as folder:
            for role, contract in contracts.items():
                if num_layers is not None:
                    contract = contract.replace(dit=replace(contract.dit, num_layers=num_layers))
                save_weights(Path(folder) / role, {}, dit_header(contract))
            folders = {role: f"{folder}/{role}" for role in contracts}
            return instantiate(cfg.stage, _convert_="all", **changes, **folders), data

    # A discriminator names layers, so that all must be there.
    return build, contracts["init"].dit.num_layers if contracts and not cfg.stage.get("gan") else None


def planned_contract(cfg: DictConfig, folder: str | None) -> Contract:
    """Of the model in a folder; of the configured one where there is none."""
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
    flops_again: float  # of these, what checkpointed blocks compute a second time
    peaks: tuple[int, ...]  # bytes alive besides weights and gradients, in each stretch between two evaluations


def needs(build: Build, run: PlannedRun, *, num_layers: int | None = None, bytes_too: bool = True) -> Needs:
    """Needs of a stage, counted on networks of two and of three layers: each further one adds what the third one does.
    Shallow networks are counted whole.

    num_layers: of the stage's networks; None: they are counted as they are. bytes_too: False leaves peaks out.

    Raises:
        ValueError: an unknown precision, nothing to checkpoint, or a batch that cannot be divided.
    """
    whole = num_layers is None or num_layers <= sum(DEPTHS)
    with _uncollected():
        one, *more = [_counted(build, run, depth, bytes_too) for depth in ((None,) if whole else DEPTHS)]
    if num_layers is None or not more:
        return one
    two = more[0]

    def deep(a: Any, b: Any) -> Any:
        return tuple(map(deep, a, b)) if isinstance(a, tuple) else a + (num_layers - DEPTHS[0]) * (b - a)

    assert len(one.peaks) == len(two.peaks), "both depths make the same evaluations"
    return Needs(*map(deep, tuple(one), tuple(two)))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Garbage waits for the end: fake tensors that Python collected in the midst of operations crashed PyTorch 2.13."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


def _counted(build: Build, run: PlannedRun, num_layers: int | None, bytes_too: bool) -> Needs:
    at_once, _ = split_batch(run.batch_size, run.device_batch, run.devices)
    with FakeTensorMode(allow_non_fake_inputs=True):  # constants of modules, made on import
        with Meter(bytes_too=False):  # for numbers alone
            stage, data = build(num_layers)
            if run.checkpointed and not checkpoint_blocks([stage]):
                raise ValueError("checkpointed=true needs a DiT: this stage has no blocks to compute again.")
            batch = data.random_batch(at_once, stage)
            attach(stage, data)
        for parameter in stage.parameters():  # as in all passes but the first: gradients are there
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        meter = Meter(_tensors(stage, batch), bytes_too=bytes_too)
        for module in stage.modules():
            if isinstance(module, DiT):
                module.register_forward_pre_hook(meter.mark)
                module.register_forward_hook(meter.mark)
        steps = (0, 1)[: run.period]  # of DMD, with an update of the student and without
        begun = steps[-1:] if run.stream_frames else ()
        counts = []
        for step in (*begun, *steps):
            before = meter.flops, meter.flops_again
            with meter:
                compute(stage, batch, step, run.precision)
            counts.append((meter.flops - before[0], meter.flops_again - before[1]))
            meter.mark()
    first, last = counts[-len(steps)], counts[-1]
    flops, again = ((a + (run.period - 1) * b) / run.period for a, b in zip(first, last, strict=True))
    learners = [module for module in stage.modules() if isinstance(module, Learner)]
    moved = [[p.numel() for p in learner.model.parameters() if p.requires_grad] for learner in learners]
    kept = [optimizer_bytes(one.make_optimizer, sum(x), len(x)) for one, x in zip(learners, moved, strict=True)]
    return Needs(
        trained=sum(map(sum, moved)),
        **_frozen(stage, learners),
        optimizer_bytes=sum(kept),
        host_bytes=distinct_bytes(_unregistered(stage)),
        tokens=at_once * stage.sample_tokens,
        flops=flops + again,
        flops_again=again,
        peaks=tuple(meter.peaks),
    )


def attach(stage: Any, data: StepData) -> None:
    """Give a stage what its training step asks of Lightning's trainer, in a pass between the first and the last of a
    batch: no optimizer moves, and nothing is logged."""
    stage.trainer = SimpleNamespace(datamodule=data, world_size=1, ckpt_path="planned")  # a resumed run fits nothing
    stage.log = stage.log_dict = lambda *_, **__: None
    stage.manual_backward = Tensor.backward
    stage.optimizers = stage.lr_schedulers = lambda **_: [None] * 3
    data.stay_between_passes()
    stage.setup("fit")


def compute(stage: L.LightningModule, batch: Any, step: int, precision: str) -> None:
    """A training step and its backward pass."""
    if step:
        batch.step = step
    stage.on_train_batch_start(batch, 0)
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


def _frozen(stage: nn.Module, learners: list[Learner[Any]]) -> dict[str, int]:
    """Numbers that are frozen, and that EMAs have of their own: they share what adapters stand on."""
    averages = {id(p) for learner in learners for p in learner.ema.parameters()}
    frozen = [p for p in stage.parameters() if not p.requires_grad and id(p) not in averages]
    networks = [(learner.model, is_adapted(learner.model)) for learner in learners]
    own = sum(p.numel() for model, adapted in networks for p in model.parameters() if p.requires_grad or not adapted)
    return {"frozen": distinct_bytes(frozen) // 4, "averaged": own}


def distinct_bytes(tensors: Iterable[Tensor]) -> int:
    """Of all storages behind these tensors, each once."""
    return sum({x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in tensors}.values())


def counted(cfg: DictConfig) -> Callable[[int], Needs] | None:
    """Needs without peaks of a config's stage on one of so many devices; None of a stage that cannot be planned."""
    if not cfg.planned:
        return None
    run: PlannedRun = instantiate(cfg.planner)

    def of_devices(devices: int) -> Needs:
        build, num_layers = described(cfg)
        return needs(build, replace(run, devices=devices), num_layers=num_layers, bytes_too=False)

    return of_devices


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
