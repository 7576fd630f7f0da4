"""Known frames as a condition: what each frame is given, and that serving sees what training saw."""

import dataclasses

import pytest
import torch
from torch import Tensor

from gwm.block import MaskedClip
from gwm.cache import RingCache
from gwm.chunks import ChunkPattern
from gwm.clip import NoisedClip, teacher_forced_velocity
from gwm.condition.inputs import Conditions
from gwm.condition.keyframes import next_known, with_keyframes
from gwm.config import DiTConfig
from tests.tiny import DIT, FAR, PATCHES, contract, keyframed, latents, speech, tiny_dit

FP32 = 1e-5
NUM_FRAMES = 6
CONFIG = keyframed(DIT)
KNOWN = torch.tensor([[False, True, False, False, True, False], [True, False, False, False, False, True]])
PATTERNS = [
    ChunkPattern(chunk_frames=1, window_chunks=4, sink_chunks=1, first_frames=1),
    ChunkPattern(chunk_frames=3, window_chunks=3, sink_chunks=1, first_frames=1),
]


def given() -> tuple[Tensor, Conditions]:
    x0 = latents(NUM_FRAMES)
    return x0, with_keyframes(speech(NUM_FRAMES), CONFIG, x0, KNOWN)


def test_every_frame_is_given_the_known_frame_that_comes_next():
    x0 = latents(NUM_FRAMES)
    planes = next_known(x0, KNOWN)
    for sample in range(2):
        for frame in range(NUM_FRAMES):
            later = [f for f in range(frame, NUM_FRAMES) if KNOWN[sample, f]]
            expected = x0[sample, later[0]] if later else torch.zeros_like(x0[0, 0])
            near = 1 / (1 + later[0] - frame) if later else 0.0
            assert torch.equal(planes[sample, frame, :-1], expected)
            assert torch.all(planes[sample, frame, -1] == torch.tensor(near))


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@torch.no_grad()
def test_serving_sees_the_keyframes_that_training_saw(pattern: ChunkPattern):
    """The ring of the server against one pass over [clean | noised], with known frames ahead of the chunks."""
    model = tiny_dit(CONFIG)
    x0, condition = given()
    clip = NoisedClip(latents(NUM_FRAMES), torch.rand(2, NUM_FRAMES), latents(1), condition)
    expected = teacher_forced_velocity(model, clip, pattern, history=x0)
    cache = RingCache(CONFIG, pattern, patches=PATCHES, horizon_frames=FAR, batch_size=2)

    def velocity(x: Tensor, sigma: Tensor, of_chunk: Conditions) -> Tensor:
        positions = cache.positions(x.shape[1])
        return model(x, sigma, of_chunk, positions=positions, context=cache, reference=clip.reference).velocity

    velocity(clip.reference, torch.zeros(2, 1), condition.frames(slice(0, 0)).after_reference())
    cache.advance(1)
    size = pattern.chunk_frames
    for start in range(0, NUM_FRAMES, size):
        part = slice(start, start + size)
        cache.follow(size)
        made = velocity(clip.x[:, part], clip.sigma[:, part], condition.frames(part))
        torch.testing.assert_close(made, expected[:, part], rtol=FP32, atol=FP32)
        velocity(x0[:, part], torch.zeros(2, size), condition.frames(part))
        cache.advance(size)


@torch.no_grad()
def test_dropped_keyframes_are_none():
    x0, condition = given()
    where = torch.tensor([True, False])
    nothing = with_keyframes(speech(NUM_FRAMES), CONFIG, x0)["keyframes"]
    assert torch.equal(condition.dropped("keyframes")["keyframes"], nothing)
    some = condition.dropped("keyframes", where)["keyframes"]
    assert torch.equal(some[0], nothing[0]) and torch.equal(some[1], condition["keyframes"][1])
    assert nothing.shape == some.shape and some[1].any()


@torch.no_grad()
def test_a_model_given_none_is_the_model_without_the_condition():
    """The columns of keyframes are the last of the patch embedding: taken off, what is left is a model of its own."""
    model, plain = tiny_dit(CONFIG), tiny_dit(DIT)
    weights = model.state_dict()
    weights["patch_embedding.weight"] = weights["patch_embedding.weight"][:, : DIT.input_features]
    plain.load_state_dict(weights)
    x0, sigma, condition = latents(NUM_FRAMES), torch.rand(2, NUM_FRAMES), speech(NUM_FRAMES)
    whole = {"positions": torch.arange(NUM_FRAMES), "context": MaskedClip(None)}
    made = model(x0, sigma, with_keyframes(condition, CONFIG, x0), **whole).velocity
    torch.testing.assert_close(made, plain(x0, sigma, condition, **whole).velocity, rtol=FP32, atol=FP32)
    other = model(x0, sigma, with_keyframes(condition, CONFIG, x0, KNOWN), **whole).velocity
    assert (other - made).abs().max() > 1e-2


def test_a_model_without_the_condition_is_given_nothing():
    condition = speech(NUM_FRAMES)
    assert with_keyframes(condition, DIT, latents(NUM_FRAMES), KNOWN) is condition


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"width": 7}, r"condition keyframes: width=7 must be 5, the latents of a known frame"),
        ({"rate": "frame"}, r"encoder='keyframes' must be one of \('linear', 'speech'\)"),
    ],
)
def test_a_declaration_that_does_not_fit_is_refused(changes: dict[str, object], rule: str):
    spec = CONFIG.keyframes
    assert spec is not None
    with pytest.raises(ValueError, match=rule):
        others = tuple(one for one in CONFIG.conditions if one is not spec)
        contract(dit=dataclasses.replace(DIT, conditions=(dataclasses.replace(spec, **changes), *others)))


def test_keyframes_come_after_what_a_published_model_is_given():
    spec, other = CONFIG.keyframes, dataclasses.replace(keyframed(DIT).conditions[0], name="given", encoder="linear")
    assert spec is not None and other.rate == "channels"
    DiTConfig(conditions=(other, spec))
    with pytest.raises(ValueError, match="must be that of one condition at most, the last of rate=channels"):
        DiTConfig(conditions=(spec, other))
