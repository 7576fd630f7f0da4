"""What a character does without being heard to: lids that close by themselves, and actions that a caller decides."""

from functools import partial

import numpy as np
import pytest
import torch

from gwm.autoencoders.haar import HaarAutoencoder
from gwm.blinks import blinking
from gwm.contract import Contract
from gwm.dit import DiT
from serve.artifact import Artifact
from serve.engine import Engine
from serve.pipeline import Pipeline
from tests.serve.conftest import randomised, started, tiny_contract
from tests.serve.test_engine import as_clip, denoised
from tests.tiny import declared, with_eyelids
from train.generate import clip_batch, stream

Voices = tuple[np.ndarray, np.ndarray]
SEED = 11  # its lids close while the voices are heard, not in the first chunk
begun = partial(started, seed=SEED)


def artifact_of(rules: Contract) -> Artifact:
    torch.manual_seed(0)
    return Artifact(rules, randomised(DiT(rules.dit)), randomised(HaarAutoencoder(rules.vae)))


@pytest.fixture(params=[1, 2], ids=["chunk_of_1", "chunk_of_2"])
def told(request: pytest.FixtureRequest) -> Artifact:
    return artifact_of(with_eyelids(tiny_contract(chunk_frames=request.param)))


def lids(engine: Engine) -> np.ndarray:
    """Of the chunks that are ready, frame by frame."""
    taken = []
    while engine.ready:
        action = engine.take()["action"]
        assert action is not None
        taken.append(action.flatten().numpy())
    return np.concatenate(taken)


def test_lids_close_by_themselves_when_the_law_says(told: Artifact, portrait: np.ndarray, voices: Voices):
    closed = lids(begun(told, portrait, voices))
    assert closed.any() and np.array_equal(closed, blinking(SEED, 0, len(closed)))


def test_lids_reach_the_picture(told: Artifact, portrait: np.ndarray, voices: Voices):
    """Guards all tests below: of a model that is told nothing they would prove nothing."""
    engine, still = (begun(told, portrait, voices) for _ in range(2))
    still.act(np.zeros((1, 1), np.float32))
    frames = [np.concatenate(list(one.chunks())) for one in (engine, still)]
    first = int(np.flatnonzero(blinking(SEED, 0, len(frames[0])))[0]) // engine.contract.chunk_pixel_frames
    begins = first * engine.contract.chunk_pixel_frames
    assert np.array_equal(frames[0][:begins], frames[1][:begins]) and (frames[0] != frames[1])[begins:].any()


@torch.no_grad()
def test_latents_of_a_told_engine_are_the_trainers_to_the_bit(told: Artifact, portrait: np.ndarray, voices: Voices):
    """The clip's truth says what the engine's own lids do."""
    made = denoised(Engine(told, seed=SEED), portrait, voices)
    clip, before = as_clip(told, portrait, voices), told.contract.audio.left_frames
    assert clip.truth is not None
    clip.truth.actions[before:, 8] = blinking(SEED, 0, len(clip.frames) - before)
    batch, _ = clip_batch([clip], told.vae, told.contract)
    assert batch.condition["action"].any()
    trained = stream(told.dit, told.contract, batch, num_frames=batch.x0.shape[1], seed=SEED)
    assert torch.equal(made, trained)


def test_going_back_blinks_again_as_if_never_gone(told: Artifact, portrait: np.ndarray, voices: Voices):
    """Also the pixels: what is taken back comes again bit for bit."""
    engine = begun(told, portrait, voices, undo_chunks=4)
    engine.step()
    frames = [engine.step() for _ in range(4)]
    engine.rewind(4)
    assert blinking(SEED, 0, 20).any()
    for expected in frames:
        assert np.array_equal(engine.step(), expected)
    engine.rewind(4)
    assert np.array_equal(lids(engine), lids(begun(told, portrait, voices))[told.contract.chunk_pixel_frames :])


def test_a_stream_that_starts_again_blinks_again(told: Artifact, portrait: np.ndarray, voices: Voices):
    engine = begun(told, portrait, voices)
    first = lids(engine)
    engine.act(np.ones((1, 1), np.float32))
    engine.start(portrait)
    engine.push(*(np.tile(voice, 4) for voice in voices))
    assert np.array_equal(lids(engine), first)


def test_a_pipeline_blinks_like_its_engine(told: Artifact, portrait: np.ndarray, voices: Voices):
    whole, _ = Engine(told, seed=SEED).play(portrait, *voices)
    engine = Engine(told, seed=SEED)
    with Pipeline(engine) as pipeline:
        made = [frames for frames, _ in engine.stream(portrait, *voices, driver=pipeline)]
    assert np.array_equal(np.concatenate(made), whole)


def test_who_acts_decides_from_the_next_chunk_on(told: Artifact, portrait: np.ndarray, voices: Voices):
    engine = begun(told, portrait, voices)
    size = told.contract.chunk_pixel_frames
    each = np.linspace(0, 1, size, dtype=np.float32)[:, None]
    actions = [None, np.full((1, 1), 0.25, np.float32), each, None]
    taken = []
    for action in actions:
        engine.act(action)
        taken.append(engine.take()["action"])
    expected = [blinking(SEED, 0, size), np.full(size, 0.25), each[:, 0], blinking(SEED, 3 * size, size)]
    for got, wanted in zip(taken, expected, strict=True):
        assert got is not None and np.allclose(got.flatten().numpy(), wanted)


def test_an_action_of_another_shape_is_an_error(told: Artifact, portrait: np.ndarray, voices: Voices):
    engine = begun(told, portrait, voices)
    with pytest.raises(ValueError, match=r"action of shape \(3, 1\) must be .* \['eyeBlinkLeft'\]"):
        engine.act(np.zeros((3, 1), np.float32))


def test_who_is_told_no_actions_cannot_act(artifact: Artifact):
    with pytest.raises(ValueError, match=r"action of shape \(1, 0\) must be"):
        Engine(artifact, seed=0).act(np.zeros((1, 0), np.float32))


def test_actions_without_a_name_are_not_given_until_somebody_acts(portrait: np.ndarray, voices: Voices):
    """Keys of a world: nobody but the caller knows them."""
    rules = tiny_contract(chunk_frames=1)
    rules = rules.replace(dit=declared(rules.dit, action=8))
    engine = begun(artifact_of(rules), portrait, voices)
    first = engine.take()["action"]
    engine.act(np.array([[1.0, 2.0]], np.float32))
    second = engine.take()["action"]
    assert first is not None and second is not None
    assert not first.any() and second.flatten().tolist() == [1, 2, 1, 2, 1, 2, 1, 2]
