"""Plans are made without memory, and say what real runs need."""

import dataclasses
import resource
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from data.batch import PixelData, StepData
from distill.dmd_stage import DMDStage
from distill.windows import StreamingWindows
from gwm.config import DiTConfig
from gwm.weights import save_weights
from tests.distill.test_roles import BOTH, adapted_weights, distinct_bytes
from tests.test_configs import composed
from tests.tiny import DIT, GRID, PATCHES, RESOLUTION, contract, declared, tiny_dit, trainable
from tests.train.test_resume import FRAMES, HEAD, LatentsInMemory, dmd, stage, weights
from train.learner import Learner
from train.measure import Meter
from train.networks import dit_header, load_dit
from train.plan import DEPTHS, Build, Plan, PlannedRun, _attach, _compute, described, optimizer_bytes, plan

BATCH = 2
ADAM = partial(torch.optim.AdamW, lr=1e-2)
PERIOD = 3  # of the stage dmd of tests/train/test_resume.py
# Attention on CPUs has buffers of its own for every thread, which weigh most in tiny models.
ACTIVATION_TOLERANCE = 0.05


def planned(build: Build, *, num_layers: int | None = None, **changes: Any) -> Plan:
    how: dict[str, Any] = {
        "batch_size": BATCH, "device_batch": None, "precision": "32-true", "devices": 1, "sharded": False,
        "whole_weights": False, "checkpointed": False, "device_flops": 1e9,
    }  # fmt: skip
    return plan(build, PlannedRun(**(how | changes)), num_layers=num_layers)


def made(name: str, folders: dict[str, str], **changes: Any) -> tuple[Any, StepData]:
    """A stage of tests/train/test_resume.py, with rollouts that leave at the last step, and its data."""
    how: dict[str, Any] = {"shards": ".", "batch_size": BATCH, "num_workers": 0, "seed": 0}
    if name == "autoencoder":
        crops = {"crops_per_clip": 1, "crop_frames": 8, "crop_size": 16, "half_share": 0.0, "resolution": RESOLUTION}
        return stage(name, folders), PixelData(**how, **crops)
    if not name.startswith("dmd"):
        return stage(name, folders), LatentsInMemory(**how)
    options: dict[str, Any] = {"dmd_adapters": {"lora": BOTH}, "dmd_gan": {"gan": HEAD}}
    return dmd(folders, exit="last", **options.get(name, {}), **changes), LatentsInMemory(**how)


def builder(name: str, folders: dict[str, str], **changes: Any) -> Build:
    return lambda _: made(name, folders, **changes)


def period(name: str) -> int:
    return PERIOD if name.startswith("dmd") else 1


def really_alive(module: Any, data: StepData, steps: tuple[int, ...]) -> int:
    """Most bytes that a training step of real tensors has alive at once besides weights and gradients, by PyTorch's own
    profiler."""
    batch = data.random_batch(BATCH, module)
    _attach(module, data)
    for parameter in trainable(module):
        parameter.grad = torch.zeros_like(parameter)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        for step in steps:
            batch.step = step
            _compute(module, batch, "32-true")
    events: Any = profile.profiler
    memory = [event for event in events.kineto_results.events() if event.name() == "[memory]"]
    sizes = torch.tensor([event.nbytes() for event in sorted(memory, key=lambda event: event.start_ns())])
    return int(sizes.cumsum(0).max())


@pytest.mark.parametrize(
    "name", ["autoencoder", "bidirectional", "causal", "consistency", "dmd", "dmd_adapters", "dmd_gan"]
)
def test_a_plan_says_what_the_stage_needs(name: str, tmp_path: Path):
    """Parameters and optimizer to the byte, activations within the tolerance, against the stage itself on the CPU."""
    folders = adapted_weights(tmp_path)
    module: Any = dmd(folders, lora=BOTH) if name == "dmd_adapters" else stage(name, folders)
    found = planned(builder(name, folders))
    trained = [part for part in module.children() if isinstance(part, Learner)]
    trained += [module.gan.head] if name == "dmd_gan" else []
    parameters = [p for network in trained for p in trainable(network.model)]
    assert found.trained_parameters == sum(p.numel() for p in parameters)
    networks = [network.model for network in trained]
    networks += [module.teacher] if name.startswith(("consistency", "dmd")) else []
    assert 4 * found.frozen_parameters == distinct_bytes(*networks) - sum(p.nbytes for p in parameters)
    assert found.weight_bytes == distinct_bytes(*networks, *(network.ema.module for network in trained))
    optimizer = ADAM(parameters)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    assert found.gradient_bytes == sum(p.grad.nbytes for p in parameters if p.grad is not None)
    optimizer.step()
    assert found.optimizer_bytes == sum(v.nbytes for state in optimizer.state.values() for v in state.values())
    assert found.activation_bytes == pytest.approx(kept_by(module), rel=ACTIVATION_TOLERANCE)


def test_a_teacher_on_the_host_takes_no_room_on_the_device(tmp_path: Path):
    """Also under the critic's adapters, as long as its blocks are computed again; else it keeps what was brought."""
    folders = weights(tmp_path)
    # Replayed, so that the critic's pass is what keeps most.
    short: dict[str, Any] = {"gradient": "replay", "sigmas": [1.0], "num_frames": 1}
    build = partial(dmd_builder(folders), lora=BOTH | {"student_base": "own"}, **short)
    teacher, _ = load_dit(folders["bidirectional"], stage="bidirectional")
    teacher_bytes = distinct_bytes(teacher)
    device, host = planned(build, checkpointed=True), planned(partial(build, offload=True), checkpointed=True)
    assert (device.host_bytes, host.host_bytes) == (0, teacher_bytes)
    assert host.weight_bytes == device.weight_bytes - teacher_bytes
    assert any("host" in line for line in host.lines()) and not any("host" in line for line in device.lines())
    kept = planned(partial(build, offload=True)).activation_bytes - planned(build).activation_bytes
    layers = sum(module.weight.nbytes for module in teacher.blocks.modules() if isinstance(module, nn.Linear))
    assert layers < kept < teacher_bytes


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
    found = planned(builder("bidirectional", folders))
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


def test_fake_and_real_operations_are_counted_alike(tmp_path: Path):
    model, _ = load_dit(weights(tmp_path)["causal"], stage="causal")
    clips = work.random_clips(model.config, batch_size=BATCH, num_frames=FRAMES, height=GRID[0], width=GRID[1])
    pattern = stage("causal", weights(tmp_path)).contract.pattern  # type: ignore[attr-defined]
    real = work.flow_work(clips, pattern, teacher_forcing=True)
    with flop_counter() as counter:
        real.passes[0].compute().backward()
    build = partial(work.causal, stage("causal", weights(tmp_path)).contract, num_frames=FRAMES)  # type: ignore[attr-defined]
    assert planned(build).flops_per_step == counter.get_total_flops()


def test_a_plan_allocates_nothing():
    """Two blocks of the 14 B geometry: 3 GB of weights, 40 GB of activations and as much again for the optimizer."""
    config = DiTConfig(
        dim=5120, ffn_dim=13824, num_heads=40, num_layers=2, conditions=wan_conditions(text=4096, image=0, channels=0)
    )
    build = partial(work.geometry, config, num_frames=20, height=60, width=104, pattern=None)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = planned(build, batch_size=1, precision="bf16-mixed")
    grown_bytes = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert found.device_bytes > 50e9 and grown_bytes < 500e6
    assert found.tokens_per_step == 20 * 30 * 52


def test_shards_divide_everything_but_activations_and_checkpoints_only_these(tmp_path: Path):
    build = builder("causal", weights(tmp_path))
    alone, sharded = planned(build), planned(build, batch_size=4 * BATCH, devices=4, sharded=True)
    checkpointed, mixed = planned(build, checkpointed=True), planned(build, precision="bf16-mixed")
    for name in ("weight_bytes", "gradient_bytes", "optimizer_bytes"):
        assert getattr(alone, name) // 4 == getattr(sharded, name) and getattr(alone, name) == getattr(
            checkpointed, name
        )
    assert sharded.activation_bytes == alone.activation_bytes and sharded.tokens_per_step == 4 * alone.tokens_per_step
    assert sharded.steps_per_day == pytest.approx(alone.steps_per_day)
    assert checkpointed.flops_per_step > 1.05 * alone.flops_per_step  # the encoder is not computed again
    assert 0.4 * alone.activation_bytes < mixed.activation_bytes < alone.activation_bytes


def test_zero_keeps_weights_whole_and_a_divided_copy(tmp_path: Path):
    build = builder("consistency", weights(tmp_path))  # with a frozen teacher
    alone = planned(build)
    zero = planned(build, batch_size=4 * BATCH, devices=4, sharded=True, whole_weights=True)
    assert zero.weight_bytes == alone.weight_bytes + alone.trained_parameters  # four bytes, four devices
    assert zero.gradient_bytes == alone.gradient_bytes // 4 and zero.optimizer_bytes == alone.optimizer_bytes // 4


def test_passes_cost_time_and_no_memory(tmp_path: Path):
    build = builder("causal", weights(tmp_path))
    once, passes = planned(build), planned(build, batch_size=3 * BATCH, device_batch=BATCH)
    assert passes.device_bytes == once.device_bytes
    assert passes.tokens_per_step == 3 * once.tokens_per_step and passes.flops_per_step == 3 * once.flops_per_step


def test_checkpoints_make_activations_nearly_independent_of_depth():
    def kept(num_layers: int, checkpointed: bool) -> int:
        config = DiTConfig(in_channels=4, dim=64, ffn_dim=128, num_heads=2, num_layers=num_layers)
        build = partial(work.geometry, config, batch_size=2, num_frames=3, height=8, width=8, pattern=None)
        return planned(build, checkpointed=checkpointed).activation_bytes

    tokens_bytes = 4 * 2 * 4 * 16 * 64  # a block's input: batch, frames, tokens and width
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
@pytest.mark.parametrize("stage", ["causal", "dmd"])
def test_a_deep_network_is_planned_from_shallow_ones(monkeypatch, stage: str, checkpointed: bool):
    """To the last byte and operation of the whole depth; with a text, whose embedding all blocks look at."""
    dit = declared(dataclasses.replace(DIT, num_layers=5), text=8)
    made = contract(FRAMES, dit=dit)
    if stage == "causal":
        build: Any = partial(work.causal, contract=made, num_frames=FRAMES)
    else:
        how: dict[str, Any] = {"context": "clean", "gradient": "replay", "rules": RULES, "critic_per_student": 3}
        build = partial(distill_work.dmd, contract=made, num_frames=FRAMES, sigmas=[1.0, 0.5], **how)
    found = planned(build, checkpointed=checkpointed)
    monkeypatch.setattr("train.plan.DEPTHS", (dit.num_layers,))
    assert max(DEPTHS) < dit.num_layers and planned(build, checkpointed=checkpointed) == found


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"devices": 0}, "devices=0 must be at least 1"),
        ({"precision": "fp8"}, "precision='fp8' must be one of"),
        ({"checkpointed": True}, "needs a DiT"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], rule: str):
    build = partial(work.autoencoder, VAE_SHAPE, batch_size=1, crops_per_clip=1, crop_frames=4, crop_size=16)
    with pytest.raises(ValueError, match=rule):
        planned(build, **changes)
