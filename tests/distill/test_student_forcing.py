"""Gradients of a rollout against the same gradient without any cache, in float64."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from distill.student_forcing import RolloutGradient, RolloutRequest, StudentRollout, exit_step, student_rollout
from gwm.block import SelfAttention
from gwm.cache import PastChunks, RingCache
from gwm.chunks import ChunkPattern
from gwm.clip import NoisedClip, teacher_forced_velocity
from gwm.condition.inputs import Conditions
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.rollout import Rollout
from gwm.sampler import frame_noise
from tests.tiny import PATCHES, contract, latents, speech, tiny_dit, trainable
from train.measure import checkpoint_blocks

NUM_FRAMES = 6
FP64 = 1e-6  # rotary embeddings are rounded to float32 on purpose
ONE = ChunkPattern(chunk_frames=1, window_chunks=3, sink_chunks=1, first_frames=1)
THREE = ChunkPattern(chunk_frames=3, window_chunks=2, sink_chunks=1, first_frames=1)
SIGMAS = (1.0, 0.7, 0.4)

Case = tuple[DiT, Contract, Tensor, Conditions]


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def case(pattern: ChunkPattern, **changes: object) -> Case:
    rules = contract(NUM_FRAMES, pattern=pattern, sigmas=SIGMAS, **changes)
    return tiny_dit(), rules, latents(1), speech(NUM_FRAMES)


def rolled(case: Case, gradient: RolloutGradient, *, leave_at: int = 1) -> StudentRollout:
    model, rules, reference, condition = case
    request = RolloutRequest(leave_at, gradient, torch.Generator().manual_seed(5))
    return student_rollout(model, rules, request, reference, condition, NUM_FRAMES)


def gradients(model: DiT, x0: Tensor) -> list[Tensor]:
    """Of a fixed random functional of the clip, with respect to every parameter."""
    target = torch.randn(x0.shape, generator=torch.Generator().manual_seed(9))
    made = torch.autograd.grad((x0 * target).sum(), trainable(model), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(trainable(model), made, strict=True)]


def assert_same(made: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(made, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=FP64, atol=FP64 * max(1.0, b.abs().max().item()))


def one_pass(case: Case, rollout: StudentRollout) -> Tensor:
    """x0 of all chunks from [reference + generated clip | exit inputs] under the teacher-forcing mask."""
    model, rules, reference, condition = case
    x = rollout.x_exit
    sigma = torch.full(x.shape[:2], rollout.sigma_exit)
    noised = NoisedClip(x, sigma, reference, condition)
    velocity = teacher_forced_velocity(model, noised, rules.pattern, history=rollout.x0.detach())
    return x - rollout.sigma_exit * velocity


def constant_past(model: DiT) -> None:
    """Hooks that cut the gradient of the clean half's keys and values in every block."""
    clean = (1 + NUM_FRAMES) * PATCHES

    def cut(module: torch.nn.Module, inputs: object, output: Tensor) -> Tensor:
        return torch.cat([output[:, :clean].detach(), output[:, clean:]], dim=1)

    for module in model.modules():
        if isinstance(module, SelfAttention):
            module.norm_k.register_forward_hook(cut)
            module.v.register_forward_hook(cut)


def through_the_past(case: Case, rollout: StudentRollout) -> Tensor:
    """x0 of all chunks with the keys and values of every committed chunk inside the graph; clips are constants."""
    model, rules, reference, condition = case
    nothing = condition.frames(slice(0, 0)).after_reference()
    past = PastChunks(rules.pattern, -rules.sink_ahead_frames or NUM_FRAMES)
    committed = model(reference, torch.zeros(2, 1), nothing, positions=torch.tensor([0]), context=past)
    past, x0s, size = past.commit(committed.keys_values), [], rules.pattern.chunk_frames
    for start in range(0, NUM_FRAMES, size):
        part, positions = slice(start, start + size), 1 + torch.arange(start, start + size)
        x, heard = rollout.x_exit[:, part], condition.frames(part)
        sigma = torch.full((2, size), rollout.sigma_exit)
        step = model(x, sigma, heard, positions=positions, context=past)
        x0s.append(x - rollout.sigma_exit * step.velocity)
        if rules.context == "clean":
            step = model(rollout.x0[:, part].detach(), torch.zeros(2, size), heard, positions=positions, context=past)
        past = past.commit(step.keys_values)
    return torch.cat(x0s, 1)


@pytest.mark.parametrize("pattern", [ONE, THREE], ids=str)
@pytest.mark.parametrize("leave_at", [0, 1, 2])
def test_detached_gradient_equals_the_gradient_without_a_cache(pattern: ChunkPattern, leave_at: int):
    setting = case(pattern)
    rollout = rolled(setting, "detach", leave_at=leave_at)
    made = gradients(setting[0], rollout.x0)
    constant_past(setting[0])
    expected = one_pass(setting, rollout)
    torch.testing.assert_close(rollout.x0, expected, rtol=FP64, atol=FP64)
    assert_same(made, gradients(setting[0], expected))


@pytest.mark.parametrize("pattern", [ONE, THREE], ids=str)
@pytest.mark.parametrize("context", ["clean", "noisy"])
def test_replayed_gradient_equals_the_gradient_of_the_whole_graph(pattern: ChunkPattern, context: str):
    """Every chunk's step runs again after all later chunks were committed: it must see its own past, not theirs."""
    setting = case(pattern, context=context)
    whole, replayed = rolled(setting, "detach"), rolled(setting, "replay")
    assert torch.equal(whole.x0, replayed.x0)
    assert_same(gradients(setting[0], replayed.x0), gradients(setting[0], whole.x0))


def test_replay_runs_one_chunk_at_a_time():
    """Memory of one chunk: a chunk's step is run again only when the gradient of the one before it is finished, and
    nothing but inputs is kept until then."""
    model, rules, reference, condition = case(ONE)
    kept: dict[RolloutGradient, int] = {}
    for gradient in ("detach", "replay"):
        bytes_kept = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal bytes_kept
            bytes_kept += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            rollout = rolled((model, rules, reference, condition), gradient)
        kept[gradient] = bytes_kept
    assert kept["replay"] < kept["detach"] / 20
    order: list[str] = []
    model.register_forward_hook(lambda *_: order.append("again"))
    model.head.register_full_backward_hook(lambda *_: order.append("gradient"))
    model.blocks[0].register_full_backward_hook(lambda *_: order.append("done"))
    rollout = rolled((model, rules, reference, condition), "replay")
    order.clear()
    rollout.x0.sum().backward()
    assert order == ["again", "gradient", "done"] * NUM_FRAMES


@pytest.mark.parametrize("pattern", [ONE, THREE], ids=str)
@pytest.mark.parametrize(("context", "ahead"), [("clean", 0), ("noisy", 0), ("clean", 2)])
def test_recommitted_gradient_equals_the_gradient_through_the_past(pattern: ChunkPattern, context: str, ahead: int):
    setting = case(pattern, context=context, sink_ahead_frames=ahead)
    made = gradients(setting[0], rolled(setting, "recommit").x0)
    assert_same(made, gradients(setting[0], through_the_past(setting, rolled(setting, "none"))))
    detached = gradients(setting[0], rolled(setting, "detach").x0)
    assert any(not torch.allclose(a, b) for a, b in zip(made, detached, strict=True))


@pytest.mark.parametrize("pattern", [ONE, THREE], ids=str)
def test_recommitted_gradient_equals_that_of_one_teacher_forced_pass(pattern: ChunkPattern):
    """The form in which it was published: [generated clip | exit inputs] at once, and no cache."""
    setting = case(pattern)
    rollout = rolled(setting, "recommit")
    assert_same(gradients(setting[0], rollout.x0), gradients(setting[0], one_pass(setting, rollout)))


@pytest.mark.parametrize("pattern", [ONE, THREE], ids=str)
@pytest.mark.parametrize("gradient", ["detach", "replay", "recommit"])
def test_the_kind_of_gradient_does_not_move_the_clip(pattern: ChunkPattern, gradient: RolloutGradient):
    """Bit for bit in float32, so that nothing has to be recovered."""
    torch.set_default_dtype(torch.float32)
    setting = case(pattern)
    assert torch.equal(rolled(setting, "none").x0, rolled(setting, gradient).x0)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("gradient", ["detach", "replay", "recommit"])
def test_gradient_of_a_chunk_is_blind_to_what_is_committed_after_it(gradient: RolloutGradient, checkpointed: bool):
    """A cache written in place would show a recomputed step, or block, its own future; ours cannot."""
    model, rules, reference, condition = case(ONE)

    def of_the_first_three(num_frames: int) -> list[Tensor]:
        request = RolloutRequest(0, gradient, torch.Generator().manual_seed(5))
        rollout = student_rollout(model, rules, request, reference, condition, num_frames)
        return gradients(model, rollout.x0[:, :3])

    alone = of_the_first_three(3)
    assert not checkpointed or checkpoint_blocks([model])
    assert_same(of_the_first_three(6), alone)


def test_all_gradients_see_the_same_clip_and_none_has_no_gradient():
    setting = case(ONE)
    none, detached = rolled(setting, "none"), rolled(setting, "detach")
    assert torch.equal(none.x0, detached.x0)
    assert not none.x0.requires_grad and detached.x0.requires_grad
    assert not detached.x_exit.requires_grad


@pytest.mark.parametrize("leave_at", [0, 2])
def test_noisy_context_keeps_the_exit_steps_keys(leave_at: int):
    model, rules, reference, condition = setting = case(ONE, context="noisy")
    rollout = rolled(setting, "none", leave_at=leave_at)
    nothing = condition.frames(slice(0, 0)).after_reference()
    past = PastChunks(rules.pattern, NUM_FRAMES)
    past = past.commit(
        model(reference, torch.zeros(2, 1), nothing, positions=torch.tensor([0]), context=past).keys_values
    )
    sigma = torch.full((2, 1), SIGMAS[leave_at])
    for frame in range(NUM_FRAMES):
        part, at = slice(frame, frame + 1), torch.tensor([1 + frame])
        step = model(rollout.x_exit[:, part], sigma, condition.frames(part), positions=at, context=past)
        x0 = rollout.x_exit[:, part] - SIGMAS[leave_at] * step.velocity
        torch.testing.assert_close(rollout.x0[:, part], x0, rtol=FP64, atol=FP64)
        past = past.commit(step.keys_values)


def test_noisy_context_carries_no_gradient_from_chunk_to_chunk():
    """The last chunk's gradient with respect to the first chunk's exit input would flow through committed keys."""
    setting = case(ONE, context="noisy")
    rollout = rolled(setting, "detach")
    whole = gradients(setting[0], torch.cat([rollout.x0[:, :-1].detach(), rollout.x0[:, -1:]], 1))
    model, rules, reference, condition = setting
    with torch.no_grad():
        nothing = condition.frames(slice(0, 0)).after_reference()
        past = PastChunks(rules.pattern, NUM_FRAMES)
        past = past.commit(
            model(reference, torch.zeros(2, 1), nothing, positions=torch.tensor([0]), context=past).keys_values
        )
        sigma = torch.full((2, 1), rollout.sigma_exit)
        for frame in range(NUM_FRAMES - 1):
            part, at = slice(frame, frame + 1), torch.tensor([1 + frame])
            step = model(rollout.x_exit[:, part], sigma, condition.frames(part), positions=at, context=past)
            past = past.commit(step.keys_values)
    last = slice(NUM_FRAMES - 1, NUM_FRAMES)
    x = rollout.x_exit[:, last]
    velocity = model(x, sigma, condition.frames(last), positions=torch.tensor([NUM_FRAMES]), context=past).velocity
    alone = torch.cat([rollout.x0[:, :-1].detach(), x - rollout.sigma_exit * velocity], 1)
    assert_same(whole, gradients(model, alone))


def test_held_noise_is_the_same_for_every_frame_and_fresh_noise_for_none():
    held, fresh = (rolled(case(THREE, noise=noise), "none", leave_at=0).x_exit for noise in ("held", "fresh"))
    assert torch.equal(held, held[:, :1].expand_as(held)) and not torch.equal(held[0], held[1])
    assert not torch.equal(fresh[:, 0], fresh[:, 1]) and not torch.equal(fresh[:, 0], fresh[:, 3])


def test_exits_follow_their_law():
    generator = torch.Generator().manual_seed(0)
    counts = torch.bincount(torch.tensor([exit_step("uniform", 4, generator) for _ in range(4000)]), minlength=4)
    assert (counts - 1000).abs().max() < 5 * (4000 * 0.25 * 0.75) ** 0.5
    assert {exit_step("last", 4, generator) for _ in range(20)} == {3}


@pytest.mark.usefixtures("unchecked")
def test_unknown_choices_are_errors():
    with pytest.raises(ValueError, match="exit='first' must be one of"):
        exit_step("first", 4, torch.Generator())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gradient='full' must be one of"):
        rolled(case(ONE), "full")  # type: ignore[arg-type]


class InOrderOfTime(RingCache):
    """The ring's keys and values as training has them: one after the other, without empty slots and without a mask."""

    def visible(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, None]:
        sinks, ring = (frames * self.patches for frames in (self.pattern.sink_frames, self.pattern.ring_frames))
        token = torch.arange(int(self.frame) * self.patches + k.shape[1])
        token = token[(token < sinks) | (token >= len(token) - ring)]
        slots = torch.where(token < sinks, token, sinks + (token - sinks) % ring)
        return self.k[layer][:, slots], self.v[layer][:, slots], None


@pytest.mark.parametrize("pattern", [ONE, THREE], ids=str)
@torch.no_grad()
def test_a_trained_rollout_is_the_served_one_but_for_the_order_in_which_attention_adds_keys(
    pattern: ChunkPattern, monkeypatch: pytest.MonkeyPatch
):
    torch.set_default_dtype(torch.float32)
    model, rules, reference, condition = setting = case(pattern, noise="held")
    steps = itertools.count()
    monkeypatch.setattr(
        "distill.student_forcing.gaussian_like", lambda x, _: frame_noise(x.shape, seed=0, frame=0, step=next(steps))
    )
    trained, size = rolled(setting, "none", leave_at=2).x0, pattern.chunk_frames
    served = {}
    for cache in (RingCache, InOrderOfTime):
        rollout = Rollout(model, rules, batch_size=2, cache=cache)
        rollout.start(reference, condition, seed=0)
        parts = (slice(start, start + size) for start in range(0, NUM_FRAMES, size))
        served[cache] = torch.cat([rollout.step(condition.frames(part)) for part in parts], dim=1)
    assert torch.equal(served[InOrderOfTime], trained)
    assert (served[RingCache] - trained).norm() < 4e-7 * trained.norm()
