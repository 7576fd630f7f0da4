"""A guided stream against guided whole clips, and against guided passes behind clean data."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from gwm.block import MaskedClip
from gwm.chunks import ChunkPattern, whole_clip
from gwm.clip import NoisedClip, clip_velocity, teacher_forced_velocity
from gwm.condition.inputs import Conditions
from gwm.contract import Contract
from gwm.guidance import Guidance, guided_velocity
from gwm.rollout import Guided, GuidedRollout, Rollout
from gwm.sampler import frame_noise
from tests.tiny import DIT, GRID, contract, declared, latents, speech, tiny_dit

FRAMES, TEXT, SEED = 4, 6, 5
FP32 = 2e-4  # the same sums in another order, many steps long
LEVELS = (1.0, 0.8, 0.5, 0.2)
NOTHING = {"text": torch.full((2, TEXT), 0.3)}
SCALES = [
    Guidance(text=3.0),
    Guidance(text=3.0, agent=3.0),
    Guidance(text=4.0, agent=2.0),
    Guidance(text=1.0, agent=2.0),
]


def text_contract(pattern: ChunkPattern) -> Contract:
    rules = contract(FRAMES, dit=declared(DIT, text=TEXT)).replace(pattern=pattern)
    return rules.replace(sigmas=LEVELS, solver="ode")


def given() -> Conditions:
    return speech(FRAMES, 1).with_tokens(text=torch.randn(1, 3, TEXT))


def noise(frame: int, num_frames: int) -> Tensor:
    return frame_noise((1, num_frames, DIT.in_channels, *GRID), seed=SEED, frame=frame, step=0)


def euler(velocity: Any, x: Tensor) -> Tensor:
    """Written down independently of `gwm.sampler`."""
    for level, below in zip(LEVELS, (*LEVELS[1:], 0.0)):
        x = x + (below - level) * velocity(x, x.new_full(x.shape[:2], level))
    return x


@torch.no_grad()
@pytest.mark.parametrize("guidance", SCALES, ids=lambda guidance: str(guidance.scales))
def test_a_bidirectional_clip_is_that_of_guided_passes_over_the_whole_clip(guidance: Guidance):
    """As its teacher is scored, and as `distill` guides it: no cache, the reference under each condition."""
    rules = text_contract(whole_clip(FRAMES + 1, first_frames=1))
    model, condition, reference = tiny_dit(rules.dit), given(), latents(1, 1)
    rollout = GuidedRollout(model, rules, Guided(guidance, NOTHING))
    rollout.start(reference, condition, seed=SEED)
    with_nothing = dataclasses.replace(condition, nothing=NOTHING)

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        def predict(condition: Conditions) -> Tensor:
            return clip_velocity(model, NoisedClip(x, sigma, reference, condition), rules.pattern)

        return guided_velocity(predict, with_nothing, guidance)

    torch.testing.assert_close(rollout.step(condition), euler(velocity, noise(1, FRAMES)), rtol=FP32, atol=FP32)


@torch.no_grad()
def test_each_chunk_of_a_causal_stream_is_guided_behind_its_own_past():
    """Twice the same rollout: what it remembers of another stream would show."""
    rules = text_contract(ChunkPattern(chunk_frames=1, window_chunks=FRAMES + 1, sink_chunks=1, first_frames=1))
    model, condition, reference, guidance = tiny_dit(rules.dit), given(), latents(1, 1), Guidance(text=4.0, agent=2.0)
    rollout = GuidedRollout(model, rules, Guided(guidance, NOTHING))
    for _ in range(2):
        rollout.start(reference, condition, seed=SEED)
        made = torch.cat([rollout.step(condition.frames(slice(k, k + 1))) for k in range(FRAMES)], dim=1)
    with_nothing = dataclasses.replace(condition, nothing=NOTHING)

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        def predict(condition: Conditions) -> Tensor:
            noised = NoisedClip(x, sigma, reference, condition)
            return teacher_forced_velocity(model, noised, rules.pattern, history=made)

        return guided_velocity(predict, with_nothing, guidance)

    start = torch.cat([noise(1 + k, 1) for k in range(FRAMES)], dim=1)
    torch.testing.assert_close(made, euler(velocity, start), rtol=FP32, atol=FP32)


@torch.no_grad()
def test_a_new_prompt_reaches_every_pass_that_has_a_text():
    rules = text_contract(ChunkPattern(chunk_frames=1, window_chunks=FRAMES + 1, sink_chunks=1, first_frames=1))
    model, reference, guidance = tiny_dit(rules.dit), latents(1, 1), Guidance(text=1.0, agent=2.0)
    rollout, first, second = GuidedRollout(model, rules, Guided(guidance, NOTHING)), given(), given()
    alone = Rollout(model, rules)
    alone.start(reference, second, seed=SEED)
    rollout.start(reference, first, seed=SEED)
    for condition in (first, second):
        rollout.step(condition.frames(slice(0, 1)))
    kept, expected = rollout.without[0].prompt.layers, alone.prompt.layers
    for pairs in zip(kept, expected, strict=True):
        for (k, v), (k_alone, v_alone) in zip(*pairs, strict=True):
            assert torch.equal(k, k_alone) and torch.equal(v, v_alone)


@torch.no_grad()
def test_a_stream_without_a_reference_begins_with_its_first_chunk():
    """As a text-to-video model was trained: one clip, every frame of which sees all."""
    rules = contract(FRAMES - 1, dit=declared(DIT, text=TEXT), pattern=whole_clip(FRAMES, first_frames=0))
    rules = rules.replace(sigmas=LEVELS, solver="ode", context="noisy")
    model, condition = tiny_dit(rules.dit), given()
    rollout = Rollout(model, rules)
    rollout.start(None, condition, seed=SEED)

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        return model(x, sigma, condition, positions=torch.arange(FRAMES), context=MaskedClip(None)).velocity

    torch.testing.assert_close(rollout.step(condition), euler(velocity, noise(0, FRAMES)), rtol=FP32, atol=FP32)
