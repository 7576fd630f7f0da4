import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gwm.block import Branch, DiTBlock, MaskedClip
from gwm.cache import PastChunks
from gwm.chunks import ChunkPattern, whole_clip
from gwm.clip import NoisedClip, clip_velocity, teacher_forced_velocity
from gwm.condition.inputs import Conditions
from gwm.dit import DiT, sinusoid
from gwm.rope import rotation
from tests.tiny import DIT, GRID, PATCHES, SPEECH, latents, speech, tiny_dit

FP32 = 1e-5
FRAMES = 3


def velocity(model: DiT, x: Tensor, sigma: Tensor, condition: Conditions, mask: Tensor | None = None) -> Tensor:
    positions = torch.arange(x.shape[1])
    return model(x, sigma, condition, positions=positions, context=MaskedClip(mask)).velocity


def test_sinusoid_is_cosines_then_sines_of_a_thousand_sigma():
    sigma = torch.tensor([[0.0, 0.3, 1.0]])
    expected = [
        [f(1000 * s * 10_000 ** (-i / 8)) for f in (math.cos, math.sin) for i in range(8)] for s in sigma[0].tolist()
    ]
    torch.testing.assert_close(sinusoid(sigma, 16)[0], torch.tensor(expected), rtol=0, atol=1e-6)


def test_block_is_the_formula_of_adaptive_layer_norm():
    """Peebles and Xie 2023, arXiv:2212.09748: shift and scale after the norm, gate before the residual."""
    block = DiTBlock(DIT, layer=0)
    x, modulation = torch.randn(2, FRAMES, PATCHES, DIT.dim), torch.randn(2, FRAMES, 6, DIT.dim)
    turn = rotation(torch.arange(FRAMES), 2, 3, DIT.head_dim)
    parts = (block.modulation + modulation).unsqueeze(3).unbind(2)

    def adapted(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + DIT.eps).sqrt() * (1 + scale) + shift

    attended, _ = block.attention(adapted(x, parts[0], parts[1]).flatten(1, 2), turn, MaskedClip(None))
    expected = x + parts[2] * attended.unflatten(1, (FRAMES, PATCHES))
    hidden = F.gelu(block.ffn[0](adapted(expected, parts[3], parts[4])), approximate="tanh")
    expected = expected + parts[5] * block.ffn[2](hidden)
    stream, branch, _ = block(x, Branch(), modulation, turn, MaskedClip(None), None)
    assert branch == Branch()
    torch.testing.assert_close(stream, expected, rtol=FP32, atol=FP32)


@torch.no_grad()
def test_what_a_block_leaves_to_be_added_is_what_it_adds_itself_while_training():
    block, turn = DiTBlock(DIT, layer=0), rotation(torch.arange(FRAMES), 2, 3, DIT.head_dim)
    x, modulation = torch.randn(2, FRAMES, PATCHES, DIT.dim), torch.randn(2, FRAMES, 6, DIT.dim)
    place = modulation, turn, MaskedClip(None), None
    stream, branch, _ = block(x, Branch(), *place)
    with torch.enable_grad():
        whole, _, _ = block(x, Branch(), *place)
    assert torch.equal(stream + branch.gate * branch.y, whole)
    first, second = block(stream, branch, *place), block(whole, Branch(), *place)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1].y, second[1].y)


def test_noise_level_of_a_frame_reaches_no_other_frame_but_through_attention():
    model, x, condition = tiny_dit(), latents(FRAMES), speech(FRAMES)
    alone = torch.eye(FRAMES, dtype=torch.bool).repeat_interleave(PATCHES, 0).repeat_interleave(PATCHES, 1)
    sigma = torch.full((2, FRAMES), 0.5)
    before = velocity(model, x, sigma, condition, alone)
    sigma[:, 1] = 0.9
    after = velocity(model, x, sigma, condition, alone)
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])
    assert (before[:, 1] - after[:, 1]).abs().max() > 1e-2


def test_untrained_speech_does_not_disturb_the_model():
    """A pretrained video model must start as it was: the embeddings' last layers are zero."""
    model = DiT(DIT)
    torch.nn.init.normal_(model.head.weight)
    x, sigma = latents(FRAMES), torch.rand(2, FRAMES)
    assert torch.equal(velocity(model, x, sigma, speech(FRAMES)), velocity(model, x, sigma, speech(FRAMES)))


@pytest.mark.parametrize("stream", ["agent", "user"])
def test_both_voices_are_heard(stream: str):
    model, x, sigma, condition = tiny_dit(), latents(FRAMES), torch.rand(2, FRAMES), speech(FRAMES)
    other = dataclasses.replace(condition, frame={**condition.frame, stream: torch.randn(2, FRAMES, SPEECH)})
    assert (velocity(model, x, sigma, condition) - velocity(model, x, sigma, other)).abs().max() > 1e-2


def test_patches_enter_and_leave_as_in_wan():
    """Wan embeds patches by a strided convolution and orders the head's features (row, column, channel)."""
    model = tiny_dit(dataclasses.replace(DIT, num_layers=0))
    x, sigma, condition = latents(FRAMES), torch.rand(2, FRAMES), speech(FRAMES)
    weight = model.patch_embedding.weight.view(DIT.dim, DIT.in_channels, 2, 2)
    tokens = F.conv2d(x.flatten(0, 1), weight, model.patch_embedding.bias, stride=2)
    tokens = tokens.unflatten(0, (2, FRAMES)).flatten(3).transpose(2, 3)
    embedding = model._frame_embedding(sigma, condition)
    shift, scale = (model.modulation_out + embedding[:, :, None]).unsqueeze(3).unbind(2)
    features = model.head(F.layer_norm(tokens, (DIT.dim,), eps=DIT.eps) * (1 + scale) + shift)
    grid = features.view(2, FRAMES, 2, 3, 2, 2, DIT.in_channels)
    expected = torch.einsum("bfhwijc->bfchiwj", grid).reshape(2, FRAMES, DIT.in_channels, *GRID)
    torch.testing.assert_close(velocity(model, x, sigma, condition), expected, rtol=FP32, atol=FP32)


def test_missing_condition_is_an_error():
    model, x, sigma = tiny_dit(), latents(FRAMES), torch.rand(2, FRAMES)
    with pytest.raises(ValueError, match=r"condition 'user' is not given"):
        velocity(model, x, sigma, Conditions(frame={"agent": speech(FRAMES)["agent"]}))


AROUND = dataclasses.replace(DIT, around_reference=True)


@torch.no_grad()
def test_untrained_model_around_the_reference_shows_the_reference():
    """Its head starts at zero, so the path from any noise ends in the reference image."""
    model = DiT(AROUND)
    reference, noise = latents(1), latents(2)
    sigma = torch.full((2, 2), 0.7)
    velocity = clip_velocity(model, NoisedClip(noise, sigma, reference, speech(2)), whole_clip(3, first_frames=1))
    torch.testing.assert_close(noise - 0.7 * velocity, reference.expand_as(noise), rtol=0, atol=1e-5)


@torch.no_grad()
def test_around_the_reference_cached_equals_masked():
    model = tiny_dit(AROUND)
    reference, clean, noisy = latents(1), latents(3), latents(3)
    heard, sigma = speech(3), torch.full((2, 3), 0.6)
    pattern = ChunkPattern(chunk_frames=1, window_chunks=3, sink_chunks=1, first_frames=1)
    masked = teacher_forced_velocity(model, NoisedClip(noisy, sigma, reference, heard), pattern, history=clean)
    past = PastChunks(pattern, horizon_frames=10)
    nothing = heard.frames(slice(0, 0)).after_reference()
    commits = [(reference, nothing), *((clean[:, i : i + 1], heard.frames(slice(i, i + 1))) for i in range(3))]
    for i, (x0, condition) in enumerate(commits[:-1]):
        where = torch.tensor([i])
        level = torch.zeros(2, 1)
        past = past.commit(model(x0, level, condition, positions=where, context=past, reference=reference).keys_values)
        cached = model(
            noisy[:, i : i + 1],
            sigma[:, :1],
            heard.frames(slice(i, i + 1)),
            positions=where + 1,
            context=past,
            reference=reference,
        )
        torch.testing.assert_close(cached.velocity, masked[:, i : i + 1], rtol=1e-5, atol=1e-5)


def test_model_around_the_reference_needs_one():
    with pytest.raises(ValueError, match="reference is None"):
        tiny_dit(AROUND)(latents(1), torch.ones(2, 1), speech(1), positions=torch.arange(1), context=MaskedClip(None))


def test_equal_patches_of_different_places_are_told_apart_by_the_grid_alone():
    """Rotary embedding of a uniform picture says nothing about where a patch is."""
    for grid, differs in (((), False), ((2, 3), True)):
        model = tiny_dit(dataclasses.replace(DIT, place_grid=grid))
        x = torch.ones(1, 1, DIT.in_channels, *GRID)
        out = model(
            x, torch.full((1, 1), 0.5), speech(1, 1), positions=torch.arange(1), context=MaskedClip(None)
        ).velocity
        corners = out[..., :2, :2], out[..., 2:, 4:]
        assert torch.allclose(*corners, atol=1e-5) != differs
