import dataclasses

import pytest
import torch
from torch import Tensor

from gwm.block import MaskedClip
from gwm.cache import PastChunks, RingCache
from gwm.chunks import ChunkPattern, whole_clip
from gwm.clip import NoisedClip, clip_velocity, teacher_forced_velocity
from gwm.dit import DiT
from tests.tiny import DIT, FAR, PATCHES, latents, speech, tiny_dit

FP32 = 1e-5
NUM_FRAMES = 12
PATTERNS = [
    ChunkPattern(chunk_frames=1, window_chunks=4, sink_chunks=1, first_frames=1),
    ChunkPattern(chunk_frames=3, window_chunks=3, sink_chunks=1, first_frames=1),
    ChunkPattern(chunk_frames=3, window_chunks=4, sink_chunks=2, first_frames=1),
    ChunkPattern(chunk_frames=1, window_chunks=3, sink_chunks=0, first_frames=1),
]


@dataclasses.dataclass(frozen=True)
class Inputs(NoisedClip):
    history: Tensor

    def teacher_forced(self, model: DiT, pattern: ChunkPattern) -> Tensor:
        return teacher_forced_velocity(model, self, pattern, history=self.history)


@pytest.fixture
def inputs() -> Inputs:
    sigma = torch.rand(2, NUM_FRAMES)
    x, history = latents(NUM_FRAMES), latents(NUM_FRAMES)
    return Inputs(x, sigma, latents(1), speech(NUM_FRAMES), history)


@pytest.fixture
def model() -> DiT:
    return tiny_dit()


def chunks(pattern: ChunkPattern) -> list[slice]:
    return [slice(f, f + pattern.chunk_frames) for f in range(0, NUM_FRAMES, pattern.chunk_frames)]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@torch.no_grad()
def test_teacher_forcing_equals_serving_on_the_ring(pattern: ChunkPattern, inputs: Inputs, model: DiT):
    ring = RingCache(DIT, pattern, patches=PATCHES, horizon_frames=FAR, batch_size=2)
    expected = inputs.teacher_forced(model, pattern)
    nothing = inputs.condition.frames(slice(0, 0)).after_reference()
    model(inputs.reference, torch.zeros(2, 1), nothing, positions=ring.positions(1), context=ring)
    ring.advance(1)
    for part in chunks(pattern):
        size, condition = pattern.chunk_frames, inputs.condition.frames(part)
        ring.follow(size)
        served = model(
            inputs.x[:, part], inputs.sigma[:, part], condition, positions=ring.positions(size), context=ring
        ).velocity
        torch.testing.assert_close(served, expected[:, part], rtol=FP32, atol=FP32)
        clean = torch.zeros(2, size)
        model(inputs.history[:, part], clean, condition, positions=ring.positions(size), context=ring)
        ring.advance(size)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@torch.no_grad()
def test_teacher_forcing_equals_student_forcing_on_past_chunks(pattern: ChunkPattern, inputs: Inputs, model: DiT):
    expected = inputs.teacher_forced(model, pattern)
    nothing = inputs.condition.frames(slice(0, 0)).after_reference()
    past = PastChunks(pattern, FAR)
    committed = model(inputs.reference, torch.zeros(2, 1), nothing, positions=torch.tensor([0]), context=past)
    past = past.commit(committed.keys_values)
    for part in chunks(pattern):
        condition, positions = inputs.condition.frames(part), 1 + torch.arange(part.start, part.stop)
        served = model(inputs.x[:, part], inputs.sigma[:, part], condition, positions=positions, context=past)
        torch.testing.assert_close(served.velocity, expected[:, part], rtol=FP32, atol=FP32)
        clean = torch.zeros(2, pattern.chunk_frames)
        past = past.commit(
            model(inputs.history[:, part], clean, condition, positions=positions, context=past).keys_values
        )


@torch.no_grad()
def test_a_full_window_makes_the_causal_model_its_bidirectional_parent(inputs: Inputs, model: DiT):
    """One chunk as long as the clip: there is no past to hide and no future to see."""
    pattern = whole_clip(NUM_FRAMES + 1, first_frames=1)
    parent = clip_velocity(model, inputs, pattern)
    torch.testing.assert_close(inputs.teacher_forced(model, pattern), parent, rtol=FP32, atol=FP32)


@torch.no_grad()
def test_the_bidirectional_parent_lets_all_frames_see_all(inputs: Inputs, model: DiT):
    """With the reference image's keys held where they are when it sees only itself, no mask is left."""
    pattern = whole_clip(NUM_FRAMES + 1, first_frames=1)
    parent = clip_velocity(model, inputs, pattern)
    nothing = inputs.condition.frames(slice(0, 0)).after_reference()
    alone = model(
        inputs.reference, torch.zeros(2, 1), nothing, positions=torch.tensor([0]), context=MaskedClip(None)
    ).keys_values

    class WithReference(MaskedClip):
        def visible(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, None]:
            return torch.cat([alone[layer][0], k], 1), torch.cat([alone[layer][1], v], 1), None

    positions = 1 + torch.arange(NUM_FRAMES)
    expected = model(inputs.x, inputs.sigma, inputs.condition, positions=positions, context=WithReference(None))
    torch.testing.assert_close(parent, expected.velocity, rtol=FP32, atol=FP32)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@torch.no_grad()
def test_a_noised_chunk_never_sees_its_own_clean_self_nor_later_ones(pattern: ChunkPattern, inputs: Inputs, model: DiT):
    before = inputs.teacher_forced(model, pattern)
    for part in chunks(pattern)[:-1]:
        history = inputs.history.clone()
        history[:, part] = torch.randn_like(history[:, part])
        after = dataclasses.replace(inputs, history=history).teacher_forced(model, pattern)
        assert torch.equal(after[:, : part.stop], before[:, : part.stop])
        following = slice(part.stop, part.stop + pattern.chunk_frames)
        assert not torch.equal(after[:, following], before[:, following])


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@torch.no_grad()
def test_no_noised_chunk_sees_another(pattern: ChunkPattern, inputs: Inputs, model: DiT):
    before = inputs.teacher_forced(model, pattern)
    for part in chunks(pattern):
        x = inputs.x.clone()
        x[:, part] = torch.randn_like(x[:, part])
        after = dataclasses.replace(inputs, x=x).teacher_forced(model, pattern)
        others = torch.ones(NUM_FRAMES, dtype=torch.bool)
        others[part] = False
        assert torch.equal(after[:, others], before[:, others])
