import dataclasses

import pytest
import torch
from torch import Tensor

from gwm.cache import PastChunks
from gwm.chunks import ChunkPattern
from gwm.clip import NoisedClip, teacher_forced_velocity
from gwm.condition.inputs import Conditions
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.rollout import Rollout
from gwm.sampler import frame_noise
from tests.tiny import contract, latents, speech, tiny_dit

FP32 = 1e-5
NUM_FRAMES = 6
SEED = 11
ONE = ChunkPattern(chunk_frames=1, window_chunks=4, sink_chunks=1, first_frames=1)
THREE = ChunkPattern(chunk_frames=3, window_chunks=2, sink_chunks=1, first_frames=1)


def play(rollout: Rollout, reference: Tensor, condition: Conditions, *, seed: int = SEED) -> Tensor:
    rollout.start(reference, condition, seed=seed)
    size = rollout.contract.pattern.chunk_frames
    parts = [slice(start, start + size) for start in range(0, len(condition["agent"][0]), size)]
    return torch.cat([rollout.step(condition.frames(part)) for part in parts], dim=1)


def noises(rules: Contract, step: int) -> Tensor:
    """The noise of all chunks; the reference image is latent frame 0."""
    size = rules.pattern.chunk_frames
    shape = (2, size, 4, *rules.latent_grid)
    starts = range(1, 1 + NUM_FRAMES, size)
    return torch.cat([frame_noise(shape, seed=SEED, frame=start, step=step) for start in starts], dim=1)


def recomputed(model: DiT, rules: Contract, made: Tensor, reference: Tensor, condition: Conditions) -> Tensor:
    """The same clip in one masked pass per step, each chunk's past being what the stream made."""
    x = noises(rules, 0)
    for k, sigma in enumerate(rules.sigmas):
        after = rules.sigmas[k + 1] if k + 1 < len(rules.sigmas) else 0.0
        levels = torch.full(x.shape[:2], sigma)
        noised = NoisedClip(x, levels, reference, condition)
        velocity = teacher_forced_velocity(model, noised, rules.pattern, history=made)
        if rules.solver == "ode":
            x = x + (after - sigma) * velocity
        else:
            x0 = x - sigma * velocity
            x = (1 - after) * x0 + after * noises(rules, k + 1)
    return x


@pytest.mark.parametrize("pattern", [ONE, THREE], ids=str)
@pytest.mark.parametrize("solver", ["ode", "renoise"])
@torch.no_grad()
def test_the_stream_is_what_teacher_forcing_makes_of_its_own_past(pattern: ChunkPattern, solver: str):
    rules = contract(NUM_FRAMES, pattern=pattern, solver=solver, sigmas=(1.0, 0.6, 0.3))
    model, reference, condition = tiny_dit(), latents(1), speech(NUM_FRAMES)
    made = play(Rollout(model, rules, batch_size=2), reference, condition)
    expected = recomputed(model, rules, made, reference, condition)
    torch.testing.assert_close(made, expected, rtol=FP32, atol=FP32)


@pytest.mark.parametrize("num_steps", [1, 3])
@pytest.mark.parametrize(("context", "ahead"), [("clean", 0), ("noisy", 0), ("clean", 3)])
@torch.no_grad()
def test_the_stream_runs_on_beyond_the_horizon_as_past_chunks_do(num_steps: int, context: str, ahead: int):
    """Twice as long as training clips: sinks have moved. Noisy context: the last step's keys and values stay."""
    num_frames, sigmas = 2 * NUM_FRAMES, (1.0, 0.6, 0.3)[:num_steps]
    rules = contract(NUM_FRAMES, context=context, sigmas=sigmas, sink_ahead_frames=ahead)
    model, reference, condition = tiny_dit(), latents(1), speech(num_frames)
    made = play(Rollout(model, rules, batch_size=2), reference, condition)
    nothing, past = condition.frames(slice(0, 0)).after_reference(), PastChunks(rules.pattern, -ahead or NUM_FRAMES)
    alone = model(reference, torch.zeros(2, 1), nothing, positions=torch.tensor([0]), context=past)
    past = past.commit(alone.keys_values)
    for frame in range(num_frames):
        heard, at = condition.frames(slice(frame, frame + 1)), torch.tensor([1 + frame])
        fresh = [frame_noise(made[:, :1].shape, seed=SEED, frame=1 + frame, step=k) for k in range(num_steps)]
        x0 = fresh[0]
        for sigma, noise in zip(sigmas, fresh, strict=True):
            x = torch.lerp(x0, noise, sigma)
            prediction = model(x, torch.full((2, 1), sigma), heard, positions=at, context=past)
            x0 = x - sigma * prediction.velocity
        torch.testing.assert_close(made[:, frame : frame + 1], x0, rtol=FP32, atol=FP32)
        if context == "clean":
            prediction = model(x0, torch.zeros(2, 1), heard, positions=at, context=past)
        past = past.commit(prediction.keys_values)


@torch.no_grad()
def test_same_seed_same_latents_and_a_restart_forgets():
    rules, model = contract(NUM_FRAMES), tiny_dit()
    reference, condition = latents(1), speech(12)  # longer than the horizon: sinks have moved
    rollout = Rollout(model, rules, batch_size=2)
    first = play(rollout, reference, condition)
    other = play(rollout, latents(1), speech(12), seed=SEED + 1)
    assert torch.equal(play(rollout, reference, condition), first)
    assert torch.equal(play(Rollout(model, rules, batch_size=2), reference, condition), first)
    assert not torch.equal(play(rollout, reference, condition, seed=SEED + 1), first)
    assert not torch.equal(other, first)


@torch.no_grad()
def test_no_future_speech_reaches_the_past_of_a_stream():
    rules, model, reference, condition = contract(NUM_FRAMES), tiny_dit(), latents(1), speech(NUM_FRAMES)
    first = play(Rollout(model, rules, batch_size=2), reference, condition)
    condition["agent"][:, 3:] = torch.randn_like(condition["agent"][:, 3:])
    after = play(Rollout(model, rules, batch_size=2), reference, condition)
    assert torch.equal(after[:, :3], first[:, :3])
    assert not torch.equal(after[:, 3], first[:, 3])


@torch.no_grad()
def test_held_noise_is_that_of_the_first_frame_for_ever_and_each_step_has_its_own():
    rollout = Rollout(tiny_dit(), contract(NUM_FRAMES, pattern=THREE, sigmas=(1.0, 0.5), noise="held"), batch_size=2)
    rollout.start(latents(1), speech(0), seed=SEED)
    first = rollout.noises()
    rollout.step(speech(3))
    later = rollout.noises()
    assert all(torch.equal(a, b) and torch.equal(a[:, :1].expand_as(a), a) for a, b in zip(first, later, strict=True))
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0][0], first[0][1])


@pytest.mark.parametrize("pattern", [ONE, THREE], ids=str)
@torch.no_grad()
def test_what_a_caller_decides_is_the_past_of_all_that_follows(pattern: ChunkPattern):
    """Teacher forcing on the stream's own past gives each chunk as it was before a part of it was decided."""
    rules = contract(NUM_FRAMES, pattern=pattern, sigmas=(1.0, 0.6, 0.3))
    model, reference, condition = tiny_dit(), latents(1), speech(NUM_FRAMES)
    share, value = (torch.rand(2, NUM_FRAMES, 4, *rules.latent_grid) > 0.7).float(), latents(NUM_FRAMES)
    decided = dataclasses.replace(condition, override={"share": share, "value": value})
    made = play(Rollout(model, rules, batch_size=2), reference, decided)
    before = recomputed(model, rules, made, reference, condition)
    torch.testing.assert_close(made, before.lerp(value, share), rtol=FP32, atol=FP32)
    assert torch.equal(made[share == 1], value[share == 1])


@torch.no_grad()
def test_a_network_in_bfloat16_sees_the_noise_levels_that_training_had(monkeypatch: pytest.MonkeyPatch):
    """bfloat16 would make 0.832 of 0.833, another step of the thousand."""
    rollout, seen = Rollout(tiny_dit().bfloat16(), contract(1, sigmas=(1.0, 0.833))), []
    forward = rollout.model.forward

    def recorded(x: Tensor, sigma: Tensor, *rest: object, **more: object) -> object:
        seen.append((x.dtype, sigma))
        return forward(x, sigma, *rest, **more)

    monkeypatch.setattr(rollout.model, "forward", recorded)
    condition = speech(1, 1).map(lambda x: x.bfloat16())
    rollout.start(latents(1, 1).bfloat16(), condition, seed=SEED)
    rollout.step(condition)
    assert {dtype for dtype, _ in seen} == {torch.bfloat16}
    assert torch.equal(seen[2][1], torch.full((1, 1), 0.833))
