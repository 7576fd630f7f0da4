"""Plans are made without memory, and say what real runs need."""

import resource
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import nn
from torch.profiler import ProfilerActivity, profile

from data.batch import PixelData, StepData
from distill.ode import ODEStage, PairData
from distill.windows import StreamingWindows
from kernels.attention import attention
from tests.distill.test_roles import BOTH, adapted_weights, distinct_bytes
from tests.test_configs import composed
from tests.tiny import PATCHES, RESOLUTION, trainable
from tests.train.test_resume import FRAMES, HEAD, LatentsInMemory, dmd, network, stage, weights
from train.learner import Learner
from train.measure import Meter, checkpoint_blocks
from train.needs import DEPTHS, Build, PlannedRun, attach, compute, described, needs, optimizer_bytes
from train.networks import load_dit
from train.plan import Plan, plan

BATCH = 2
ADAM = partial(torch.optim.AdamW, lr=1e-2)
PERIOD = 3  # of the stage dmd of tests/train/test_resume.py
STREAM = 9  # frames of the streams of stage long
ACTIVATION_TOLERANCE = 0.01  # what one operation takes and gives back is not planned
DATA: dict[str, Any] = {"shards": ".", "batch_size": BATCH, "num_workers": 0, "seed": 0}
CROPS: dict[str, Any] = {"crops_per_clip": 1, "crop_frames": 8, "crop_size": 16, "half_share": 0.0}
OPTIONS: dict[str, dict[str, Any]] = {
    "dmd": {},
    "dmd_adapters": {"lora": BOTH},
    "dmd_gan": {"gan": HEAD},
    "long": {"windows": StreamingWindows(stream_frames=STREAM, overlap_frames=1), "gradient": "replay"},
}
STAGES = ["autoencoder", "bidirectional", "causal", "consistency", "ode", *OPTIONS]


SIGMAS = [1.0, 0.5]


class PairsInMemory(LatentsInMemory, PairData):
    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self.sigmas = SIGMAS


def made(name: str, folders: dict[str, str], **changes: Any) -> tuple[Any, StepData]:
    """A stage of tests/train/test_resume.py, with rollouts that leave at the last step, and its data."""
    if name == "autoencoder":
        return stage(name, folders), PixelData(**DATA, **CROPS, resolution=RESOLUTION)
    if name == "ode":
        how: dict[str, Any] = {"init": folders["causal"], "sigmas": SIGMAS, "history_noise": 0.3}
        return ODEStage(**how, network=network(), seed=0), PairsInMemory(**DATA)
    if name in OPTIONS:
        return dmd(folders, exit="last", **(OPTIONS[name] | changes)), LatentsInMemory(**DATA)
    return stage(name, folders), LatentsInMemory(**DATA)


def builder(name: str, folders: dict[str, str], **changes: Any) -> Build:
    return lambda _: made(name, folders, **changes)


def run(name: str = "", **changes: Any) -> PlannedRun:
    how: dict[str, Any] = {
        "batch_size": BATCH, "device_batch": None, "precision": "32-true", "devices": 1, "sharded": False,
        "whole_weights": False, "checkpointed": False, "device_flops": 1e9,
        "period": PERIOD if name in OPTIONS else 1, "stream_frames": STREAM if name == "long" else 0,
    }  # fmt: skip
    return PlannedRun(**(how | changes))


def planned(name: str, folders: dict[str, str], *, of_stage: dict[str, Any] | None = None, **changes: Any) -> Plan:
    how = run(name, **changes)
    return plan(how, needs(builder(name, folders, **(of_stage or {})), how))


@pytest.fixture
def no_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CPUs each layer holds a dense mask. FlexAttention, with which is planned, holds none."""
    monkeypatch.setattr("kernels.attention.sdpa_frames", lambda q, k, v, visible: attention(q, k, v, None))


@pytest.mark.parametrize("name", STAGES)
def test_a_plan_says_what_the_stage_needs(name: str, no_masks: None, tmp_path: Path):
    """Parameters, optimizer, bytes and operations as real tensors have them, to the last one."""
    folders = adapted_weights(tmp_path)
    module, data = made(name, folders)
    found, how = planned(name, folders), run(name)
    trained = [part for part in module.children() if isinstance(part, Learner)]
    trained += [module.gan.head] if name == "dmd_gan" else []
    parameters = [p for network in trained for p in trainable(network.model)]
    assert found.trained_parameters == sum(p.numel() for p in parameters)
    networks = [network.model for network in trained]
    networks += [module.teacher] if name in OPTIONS or name == "consistency" else []
    assert 4 * found.frozen_parameters == distinct_bytes(*networks) - sum(p.nbytes for p in parameters)
    assert found.weight_bytes == distinct_bytes(*networks, *(network.ema.module for network in trained))
    optimizer = ADAM(parameters)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    assert found.gradient_bytes == sum(p.grad.nbytes for p in parameters if p.grad is not None)
    optimizer.step()
    assert found.optimizer_bytes == sum(v.nbytes for state in optimizer.state.values() for v in state.values())
    batch = data.random_batch(BATCH, module)
    attach(module, data)
    meter, flops = Meter(before(module, batch)), []
    for step in ran(how):
        done = meter.flops + meter.flops_again
        with meter:
            compute(module, batch, step, how.precision)
        flops.append(meter.flops + meter.flops_again - done)
    assert found.activation_bytes == max(meter.peaks)
    assert found.flops_per_step == (flops[-min(2, how.period)] + (how.period - 1) * flops[-1]) / how.period


def ran(how: PlannedRun) -> tuple[int, ...]:
    """Steps of which the work consists: of DMD with an update of the student and without, of streams after a window."""
    steps = (0, 1)[: how.period]
    return (*steps[-1:], *steps) if how.stream_frames else steps


def before(module: nn.Module, batch: Any) -> list[torch.Tensor]:
    parameters = list(module.parameters())
    of_batch = [batch.clips, batch] if hasattr(batch, "clips") else [batch]
    values = [value for part in of_batch for value in vars(part).values()]
    values += [x for value in values if isinstance(value, dict) for x in value.values()]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    return [*parameters, *(p.grad for p in parameters if p.grad is not None), *module.buffers(), *tensors]


HALF = ["trainer.precision=bf16-mixed", "checkpoint_blocks=true"]  # casts that autocast keeps, blocks computed again


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, []) for name in ("autoencoder", "bidirectional", "causal", "consistency", "ode", "dmd", "long")]
    + [(name, HALF) for name in ("causal", "dmd", "long")],
)
def test_a_plan_of_a_config_is_what_the_profiler_sees(
    name: str, options: list[str], no_masks: None, monkeypatch: pytest.MonkeyPatch
):
    """Most bytes alive at once in a training step of the nano chain, of random weights, by PyTorch's own profiler."""
    cfg = composed("train", [f"stage={name}", "data.batch_size=2", "runs=/nowhere", *options])
    how: PlannedRun = instantiate(cfg.planner)
    build, num_layers = described(cfg)
    found = needs(build, how, num_layers=num_layers)
    monkeypatch.setattr("train.networks.load_weights", lambda *_: None)
    module, data = build(None)
    assert not how.checkpointed or checkpoint_blocks([module])
    batch = data.random_batch(how.batch_size, module)
    attach(module, data)
    for parameter in trainable(module):
        parameter.grad = torch.zeros_like(parameter)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        for step in ran(how):
            compute(module, batch, step, how.precision)
    events: Any = profiled.profiler
    memory = [event for event in events.kineto_results.events() if event.name() == "[memory]"]
    sizes = torch.tensor([event.nbytes() for event in sorted(memory, key=lambda event: event.start_ns())])
    assert max(found.peaks) == pytest.approx(int(sizes.cumsum(0).max()), rel=ACTIVATION_TOLERANCE)


def test_a_teacher_on_the_host_takes_no_room_on_the_device(tmp_path: Path):
    """Also under the critic's adapters, as long as its blocks are computed again; else it keeps what was brought."""
    folders = weights(tmp_path)
    # Replayed and in one step, so that the critic's pass is what keeps most.
    short: dict[str, Any] = {"gradient": "replay", "sigmas": [1.0], "lora": BOTH | {"student_base": "own"}}
    there = short | {"offload": True}
    teacher, _ = load_dit(folders["bidirectional"], stage="bidirectional")
    teacher_bytes = distinct_bytes(teacher)
    device, host = (planned("dmd", folders, of_stage=how, checkpointed=True) for how in (short, there))
    assert (device.host_bytes, host.host_bytes) == (0, teacher_bytes)
    assert host.weight_bytes == device.weight_bytes - teacher_bytes
    assert any("host" in line for line in host.lines()) and not any("host" in line for line in device.lines())
    whole = (planned("dmd", folders, of_stage=how) for how in (there, short))
    kept = next(whole).activation_bytes - next(whole).activation_bytes
    layers = sum(module.weight.nbytes for module in teacher.blocks.modules() if isinstance(module, nn.Linear))
    assert layers < kept < teacher_bytes
    assert host.activation_bytes - device.activation_bytes < layers


def test_arithmetic_is_that_of_the_formula(tmp_path: Path):
    """Products of a DiT by hand: two operations a weight and token, attention, and twice that for the backward pass."""
    folders = weights(tmp_path)
    module: Any = stage("bidirectional", folders)
    config = module.contract.dit
    tokens, frames = BATCH * (FRAMES + 1) * PATCHES, BATCH * (FRAMES + 1)
    d, f = config.dim, config.ffn_dim
    block = tokens * (4 * d * d + 2 * d * f) + 2 * BATCH * ((FRAMES + 1) * PATCHES) ** 2 * d
    encoder, hops = module.network.model.speech_encoder, config.speech_width // config.speech_mels
    heard = encoder.features
    embedding = frames * (config.freq_dim * d + d * d + 6 * d * d + 2 * (heard * d + d * d))
    ends = 2 * tokens * d * config.patch_features
    forward = 2 * (config.num_layers * block + embedding + ends)
    found = planned("bidirectional", folders)
    # Backward: gradients to inputs that need none (the pixels, the conditions, the noise level) are not computed.
    unneeded = 2 * (tokens * d * config.patch_features + frames * d * (config.freq_dim + 2 * heard))
    # Attention's backward computes the scores again: five products instead of four.
    recomputed = 2 * config.num_layers * BATCH * ((FRAMES + 1) * PATCHES) ** 2 * d
    # The speech encoder gets both voices, is frozen and ends before the picture: forward only.
    steps, wide = hops // 4, 96
    convolutions = 2 * steps * 5 * config.speech_mels * wide + 2 * steps * 3 * wide * wide
    encoding = 2 * 2 * frames * (convolutions + steps * wide * 2 * wide + 2 * wide * 64)
    assert found.flops_per_step == 3 * forward - unneeded + recomputed + encoding
    assert found.steps_per_day == pytest.approx(86_400 * 1e9 / found.flops_per_step)
    assert found.tokens_per_step == BATCH * FRAMES * PATCHES


def of_wan(stage_name: str, *options: str, **changes: Any) -> tuple[Build, int | None, PlannedRun]:
    """A stage of the recipe of Wan 2.1 1.3B, as the command line describes it."""
    recipe = ["experiment=wan2_1_t2v_1_3b", "base=/nowhere", "name=/nowhere"]
    cfg = composed("train", [f"stage={stage_name}", *recipe, *options])
    how = {"device_batch": None, "sharded": False, "checkpointed": False, "device_flops": 1e9} | changes
    return *described(cfg), replace(instantiate(cfg.planner), **how)


def test_a_plan_allocates_nothing():
    """Two blocks of the 14 B shape: 3 GB of weights, 40 GB of activations and as much again for the optimizer."""
    shape = ("model.dim=5120", "model.ffn_dim=13824", "model.num_heads=40", "model.num_layers=2", "num_frames=20")
    build, _, how = of_wan("bidirectional", *shape, batch_size=1, precision="bf16-mixed")
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = plan(how, needs(build, how))
    grown_bytes = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun)
    assert found.device_bytes > 50e9 and grown_bytes < 500e6
    assert found.tokens_per_step == 20 * 30 * 52


def test_shards_divide_everything_but_activations_and_checkpoints_only_these(tmp_path: Path):
    folders = weights(tmp_path)
    alone = planned("causal", folders)
    sharded = planned("causal", folders, batch_size=4 * BATCH, devices=4, sharded=True)
    checkpointed, mixed = (
        planned("causal", folders, checkpointed=True),
        planned("causal", folders, precision="bf16-mixed"),
    )
    for name in ("weight_bytes", "gradient_bytes", "optimizer_bytes"):
        assert getattr(alone, name) // 4 == getattr(sharded, name) and getattr(alone, name) == getattr(
            checkpointed, name
        )
    assert sharded.activation_bytes == alone.activation_bytes and sharded.tokens_per_step == 4 * alone.tokens_per_step
    assert sharded.steps_per_day == pytest.approx(alone.steps_per_day)
    assert checkpointed.flops_per_step > 1.05 * alone.flops_per_step  # the encoder is not computed again
    assert 0.4 * alone.activation_bytes < mixed.activation_bytes < alone.activation_bytes


def test_zero_keeps_weights_whole_and_a_divided_copy(tmp_path: Path):
    folders = weights(tmp_path)
    alone = planned("consistency", folders)  # with a frozen teacher
    zero = planned("consistency", folders, batch_size=4 * BATCH, devices=4, sharded=True, whole_weights=True)
    assert zero.weight_bytes == alone.weight_bytes + alone.trained_parameters  # four bytes, four devices
    assert zero.gradient_bytes == alone.gradient_bytes // 4 and zero.optimizer_bytes == alone.optimizer_bytes // 4


def test_passes_cost_time_and_no_memory(tmp_path: Path):
    folders = weights(tmp_path)
    once, passes = planned("causal", folders), planned("causal", folders, batch_size=3 * BATCH, device_batch=BATCH)
    assert passes.device_bytes == once.device_bytes
    assert passes.tokens_per_step == 3 * once.tokens_per_step and passes.flops_per_step == 3 * once.flops_per_step


def test_checkpoints_make_activations_nearly_independent_of_depth():
    build, _, _ = of_wan("bidirectional", "num_frames=3")

    def kept(num_layers: int, checkpointed: bool) -> int:
        how = run(batch_size=1, checkpointed=checkpointed)
        return max(needs(lambda _: build(num_layers), how).peaks)

    tokens_bytes = 4 * 4 * 30 * 52 * 1536  # a block's input: frames, tokens and width
    assert kept(8, True) - kept(4, True) == pytest.approx(4 * tokens_bytes, rel=0.2)
    assert kept(8, False) - kept(4, False) > 4 * 8 * tokens_bytes


def test_an_optimizer_without_a_fixed_price_is_refused():
    class Squares(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            for parameter in self.param_groups[0]["params"]:
                self.state[parameter]["outer"] = parameter[:, None] * parameter

    with pytest.raises(ValueError, match="no fixed number for each"):
        optimizer_bytes(partial(Squares, lr=1e-2), 3, 1)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("stage", ["causal", "dmd", "long"])
def test_a_deep_network_is_planned_from_shallow_ones(stage: str, checkpointed: bool):
    """To the last byte and operation of the whole depth; with a text, whose embedding all blocks look at."""
    build, num_layers, how = of_wan(stage, "model.num_layers=6", batch_size=1, checkpointed=checkpointed)
    assert num_layers == 6 > sum(DEPTHS)
    assert needs(build, how, num_layers=6) == needs(build, how)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"devices": 0}, "devices=0 must be at least 1"),
        ({"precision": "fp8"}, "precision='fp8' must be one of"),
        ({"checkpointed": True}, "needs a DiT"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], rule: str, tmp_path: Path):
    with pytest.raises(ValueError, match=rule):
        planned("autoencoder", weights(tmp_path), **changes)


@pytest.mark.parametrize("name", ["regression", "speech", "export"])
def test_a_stage_that_cannot_be_planned_says_so(name: str):
    cfg = composed("train", [f"stage={name}"])
    with pytest.raises(ValueError, match="plan=true needs a stage that trains on clips or crops"):
        described(cfg)


def test_planning_draws_no_random_numbers(tmp_path: Path):
    """A training that counts its operations goes on as one that does not."""
    folders = weights(tmp_path)
    state = torch.get_rng_state()
    planned("dmd", folders)
    assert torch.equal(torch.get_rng_state(), state)
