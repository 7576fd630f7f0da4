"""Plans are made without memory, and say what real runs need."""

import dataclasses
import resource
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from data.batch import LatentBatch, PixelBatch
from distill import work as distill_work
from distill.dmd_stage import DMDStage
from gwm.config import DiTConfig
from gwm.contract import Contract
from gwm.guidance import Guidance
from gwm.wan.geometry import wan_conditions
from gwm.weights import read_header
from tests.distill.test_roles import BOTH, adapted_weights, distinct_bytes
from tests.tiny import DIT, GRID, PATCHES, VAE_SHAPE, contract, declared, trainable
from tests.train.test_resume import FRAMES, HEAD, RULES, dmd, stage, weights
from train import work
from train.learner import Learner
from train.measure import SavedTensors, flop_counter
from train.networks import load_dit
from train.plan import DEPTHS, Plan, PlannedRun, optimizer_bytes, plan

BATCH = 2
ADAM = partial(torch.optim.AdamW, lr=1e-2)
# Stages log numbers and draw noise besides what the plan computes: small tensors, which weigh most in tiny models.
ACTIVATION_TOLERANCE = 0.05


def planned(build: Any, **changes: Any) -> Plan:
    how: dict[str, Any] = {
        "batch_size": BATCH, "device_batch": None, "precision": "32-true", "devices": 1, "sharded": False,
        "whole_weights": False, "checkpointed": False, "device_flops": 1e9,
    }  # fmt: skip
    return plan(build, ADAM, PlannedRun(**(how | changes)))


def builder(name: str, folders: dict[str, str]) -> Any:
    """The work of a stage of tests/train/test_resume.py, as configs/work describes it."""
    if name == "autoencoder":
        return partial(work.autoencoder, VAE_SHAPE, crops_per_clip=1, crop_frames=8, crop_size=16)
    if name in ("bidirectional", "causal", "consistency"):
        made: Any = stage(name, folders)
        if name == "consistency":
            return partial(distill_work.consistency, made.contract, num_frames=FRAMES, guidance=Guidance(agent=2.0))
        return partial(getattr(work, name), made.contract, num_frames=FRAMES)
    options = {"dmd_adapters": {"lora": BOTH}, "dmd_gan": {"gan": HEAD}}
    return partial(dmd_builder(folders), **options.get(name, {}))


def dmd_builder(folders: dict[str, str]) -> Any:
    contract = Contract.from_json(read_header(Path(folders["causal"]), kind="dit")["contract"])
    return partial(
        distill_work.dmd, contract, num_frames=FRAMES, sigmas=[1.0, 0.5], context="clean", gradient="detach",
        rules=RULES, critic_per_student=3,
    )  # fmt: skip


def kept_by(module: Any) -> int:
    """Bytes that the stage's own training step keeps for its backward pass; the largest of its losses."""
    saved = SavedTensors([module])
    torch.manual_seed(0)
    if not isinstance(module, DMDStage):
        with saved.watching():
            module.training_step(batch_of(module), 0)
        return saved.bytes
    batch, generator = batch_of(module), torch.Generator().manual_seed(0)
    module.exit = "last"
    with saved.watching():
        module.student_loss(module._window(batch, "detach", generator), batch, generator)
    critic, window = SavedTensors([module]), module._window(batch, "none", generator)
    with critic.watching():
        module.critic_loss(window, generator)
    return max(saved.bytes, critic.bytes)  # a discriminator's own loss keeps features alone


def batch_of(module: Any) -> Any:
    if not hasattr(module, "contract"):
        return PixelBatch(torch.rand(BATCH, 8, 3, 16, 16), step=0)
    module.weight = torch.ones(GRID)
    grid, speech = (DIT.in_channels, *GRID), module.contract.dit.speech_width
    return LatentBatch(
        x0=torch.randn(BATCH, FRAMES, *grid), reference=torch.randn(BATCH, 1, *grid),
        conditions={f"frame.{name}": torch.randn(BATCH, FRAMES, speech) for name in ("agent", "user")}, step=0,
    )  # fmt: skip


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
