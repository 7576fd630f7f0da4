"""What a character does without being heard to: lids that close by themselves, and numbers that a caller sets."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

from gwm.autoencoders.haar import HaarAutoencoder
from gwm.blinks import blinking
from gwm.condition.spec import ConditionSpec
from gwm.contract import Contract
from gwm.dit import DiT
from serve.acts import Numbers
from serve.artifact import Artifact
from serve.engine import Engine
from serve.pipeline import Pipeline
from tests.serve.conftest import randomised, started, tiny_contract
from tests.serve.test_engine import as_clip, denoised
from tests.tiny import declared, with_eyelids
from train.played import clip_batch, stream

Voices = tuple[np.ndarray, np.ndarray]
SEED = 11  # its lids close while the voices are heard, not in the first chunk
begun = partial(started, seed=SEED)


def artifact_of(rules: Contract) -> Artifact:
    torch.manual_seed(0)
    return Artifact(rules, randomised(DiT(rules.dit)), randomised(HaarAutoencoder(rules.vae)))


@pytest.fixture(params=[1, 2], ids=["chunk_of_1", "chunk_of_2"])
def blinker(request: pytest.FixtureRequest) -> Artifact:
    return artifact_of(with_eyelids(tiny_contract(chunk_frames=request.param)))


def lids(engine: Engine) -> np.ndarray:
    """Of the chunks that are ready, frame by frame."""
    taken = []
    while engine.ready:
        action = engine.take()["action"]
        assert action is not None
        taken.append(action.flatten().numpy())
    return np.concatenate(taken)


def test_lids_close_by_themselves_when_the_law_says(blinker: Artifact, portrait: np.ndarray, voices: Voices):
    closed = lids(begun(blinker, portrait, voices))
    assert closed.any() and np.array_equal(closed, blinking(SEED, 0, len(closed)))


def test_lids_reach_the_picture(blinker: Artifact, portrait: np.ndarray, voices: Voices):
    """Guards all tests below: of a model without actions they would prove nothing."""
    engine, still = (begun(blinker, portrait, voices) for _ in range(2))
    still.act({"eyeBlinkLeft": 0})
    frames = [np.concatenate(list(one.chunks())) for one in (engine, still)]
    first = int(np.flatnonzero(blinking(SEED, 0, len(frames[0])))[0]) // engine.contract.chunk_pixel_frames
    begins = first * engine.contract.chunk_pixel_frames
    assert np.array_equal(frames[0][:begins], frames[1][:begins]) and (frames[0] != frames[1])[begins:].any()


@torch.no_grad()
def test_latents_of_an_engine_with_actions_are_the_trainers_to_the_bit(
    blinker: Artifact, portrait: np.ndarray, voices: Voices
):
    """The clip's truth says what the engine's own lids do."""
    made = denoised(Engine(blinker, seed=SEED), portrait, voices)
    clip, before = as_clip(blinker, portrait, voices), blinker.contract.audio.left_frames
    assert clip.truth is not None
    clip.truth.actions[before:, 8] = blinking(SEED, 0, len(clip.frames) - before)
    batch, _ = clip_batch([clip], blinker.vae, blinker.contract)
    assert batch.condition["action"].any()
    trained = stream(blinker.dit, blinker.contract, batch, num_frames=batch.x0.shape[1], seed=SEED)
    assert torch.equal(made, trained)


def test_going_back_blinks_again_as_if_never_gone(blinker: Artifact, portrait: np.ndarray, voices: Voices):
    """Also the pixels: what is taken back comes again bit for bit."""
    engine = begun(blinker, portrait, voices, undo_chunks=4)
    engine.step()
    frames = [engine.step() for _ in range(4)]
    engine.rewind(4)
    assert blinking(SEED, 0, 20).any()
    for expected in frames:
        assert np.array_equal(engine.step(), expected)
    engine.rewind(4)
    assert np.array_equal(lids(engine), lids(begun(blinker, portrait, voices))[blinker.contract.chunk_pixel_frames :])


def test_a_stream_that_starts_again_blinks_again(blinker: Artifact, portrait: np.ndarray, voices: Voices):
    engine = begun(blinker, portrait, voices)
    first = lids(engine)
    engine.act({"eyeBlinkLeft": 1})
    engine.start(portrait)
    engine.push(*(np.tile(voice, 4) for voice in voices))
    assert np.array_equal(lids(engine), first)


def test_a_pipeline_blinks_like_its_engine(blinker: Artifact, portrait: np.ndarray, voices: Voices):
    whole, _ = Engine(blinker, seed=SEED).play(portrait, *voices)
    engine = Engine(blinker, seed=SEED)
    with Pipeline(engine) as pipeline:
        made = [frames for frames, _ in engine.stream(portrait, *voices, driver=pipeline)]
    assert np.array_equal(np.concatenate(made), whole)


def test_who_acts_decides_from_the_next_chunk_on(blinker: Artifact, portrait: np.ndarray, voices: Voices):
    engine = begun(blinker, portrait, voices)
    size = blinker.contract.chunk_pixel_frames
    each = np.linspace(0, 1, size, dtype=np.float32)
    numbers = [None, {"eyeBlinkLeft": 0.25}, {"eyeBlinkLeft": each.tolist()}, {}, {"eyeBlinkLeft": None}]
    taken = []
    for given in numbers:
        engine.act(given)
        taken.append(engine.take()["action"])
    own = [blinking(SEED, chunk * size, size) for chunk in (0, 4)]
    expected = [own[0], np.full(size, 0.25), each, np.ones(size), own[1]]
    for got, wanted in zip(taken, expected, strict=True):
        assert got is not None and np.allclose(got.flatten().numpy(), wanted)


def test_what_a_model_is_not_told_cannot_be_set(artifact: Artifact):
    with pytest.raises(ValueError, match=r"joy=0\.5 must be left out: the model has no numbers to set"):
        Engine(artifact, seed=0).act({"joy": 0.5})


def test_numbers_without_names_are_called_by_their_places(portrait: np.ndarray, voices: Voices):
    """Keys of a world: nobody but the caller knows them."""
    rules = tiny_contract(chunk_frames=1)
    rules = rules.replace(dit=declared(rules.dit, action=8))
    engine = begun(artifact_of(rules), portrait, voices)
    first = engine.take()["action"]
    engine.act({"action1": 2.0, "action0": 1})
    second = engine.take()["action"]
    assert first is not None and second is not None
    assert not first.any() and second.flatten().tolist() == [1, 2, 1, 2, 1, 2, 1, 2]


def test_each_number_stays_until_it_is_changed_or_released(portrait: np.ndarray, voices: Voices):
    """Others of its condition have their defaults meanwhile; without any the condition is not given."""
    rules = tiny_contract(chunk_frames=1)
    manner = ConditionSpec(name="manner", rate="frame", width=8, names=("liveliness", "joy"), default=(0.5, 0.0))
    rules = rules.replace(dit=dataclasses.replace(rules.dit, conditions=(*rules.dit.conditions, manner)))
    engine = begun(artifact_of(rules), portrait, voices)
    given: list[Numbers | None] = [{}, {"joy": 0.25}, {"liveliness": 1}, {"joy": None}, {"joy": 1}, None]
    expected = [[0, 0], [0.5, 0.25], [1, 0.25], [1, 0], [1, 1], [0, 0]]
    for numbers, wanted in zip(given, expected, strict=True):
        engine.act(numbers)
        assert engine.take()["manner"].reshape(4, 2).tolist() == [wanted] * 4


def test_numbers_of_a_media_time_hold_from_the_chunk_of_their_receipt(
    blinker: Artifact, portrait: np.ndarray, voices: Voices
):
    engine = begun(blinker, portrait, voices)
    receipt = engine.act({"eyeBlinkLeft": 1}, at_s=0.34)
    assert receipt.media_s >= 0.34 and receipt.chunk == {1: 3, 2: 2}[blinker.contract.pattern.chunk_frames]
    closed = [bool(engine.take()["action"].bool().all()) for _ in range(receipt.chunk + 2)]
    assert closed == [False] * receipt.chunk + [True] * 2
    with pytest.raises(ValueError, match=r"at_s=0\.1 must be at least"):
        engine.act({"eyeBlinkLeft": 1}, at_s=0.1)
