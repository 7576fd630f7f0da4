from functools import partial

import numpy as np
import pytest
import torch

from serve.artifact import Artifact
from serve.engine import Engine
from tests.serve.conftest import started

Voices = tuple[np.ndarray, np.ndarray]
DEPTH = 3
begun = partial(started, seed=7, undo_chunks=DEPTH)


def rest(engine: Engine) -> np.ndarray:
    frames = []
    while engine.ready:
        frames.append(engine.step())
    return np.concatenate(frames)


@pytest.mark.parametrize("before", [1, 2, 6])
@pytest.mark.parametrize("chunks", [1, DEPTH])
def test_rewinding_is_never_having_run(
    artifact: Artifact, portrait: np.ndarray, voices: Voices, before: int, chunks: int
):
    """Also where the ring had been full, so that the chunks taken back had overwritten older ones."""
    engine, straight = begun(artifact, portrait, voices), begun(artifact, portrait, voices)
    for _ in range(before):
        engine.step()
        straight.step()
    engine.timeline.samples[:, engine.timeline.past_samples :] *= -0.5  # what is taken back was another sentence
    sound = straight.timeline.samples.clone()
    for _ in range(chunks):
        engine.step()
    engine.rewind(chunks)
    engine.timeline.samples = sound
    expected = rest(straight)
    assert np.array_equal(rest(engine), expected)


def test_the_sound_of_chunks_taken_back_waits_again(artifact: Artifact, portrait: np.ndarray, voices: Voices):
    engine = begun(artifact, portrait, voices)
    engine.step()
    before = engine.timeline.samples.clone()
    taken = [engine.step(), engine.step()]
    engine.rewind(2)
    assert torch.equal(engine.timeline.samples, before)
    for frames in taken:
        assert np.array_equal(engine.step(), frames)


def test_rewinding_twice_goes_further_back(artifact: Artifact, portrait: np.ndarray, voices: Voices):
    engine = begun(artifact, portrait, voices)
    frames = [engine.step() for _ in range(3)]
    engine.rewind(1)
    engine.rewind(2)
    assert np.array_equal(engine.step(), frames[0])


def test_more_than_is_kept_cannot_be_taken_back(artifact: Artifact, portrait: np.ndarray, voices: Voices):
    engine = begun(artifact, portrait, voices)
    engine.step()
    with pytest.raises(ValueError, match=r"chunks=2 must be in \[0, 1\]"):
        engine.rewind(2)
    for _ in range(4):
        engine.step()
    with pytest.raises(ValueError, match=r"chunks=4 must be in \[0, 3\]"):
        engine.rewind(4)
    engine.start(portrait)
    with pytest.raises(ValueError, match=r"chunks=1 must be in \[0, 0\]"):
        engine.rewind(1)


def test_an_interrupted_character_falls_silent_and_goes_on_hearing(
    artifact: Artifact, portrait: np.ndarray, voices: Voices
):
    engine, twin = begun(artifact, portrait, voices), Engine(artifact, seed=7)
    engine.step()
    engine.silence()
    shown = 1_000 * artifact.contract.chunk_pixel_frames
    agent, user = (np.tile(voice, 4) for voice in voices)
    twin.start(portrait)
    twin.push(agent[: shown + twin.lookahead_samples], user[: shown + twin.lookahead_samples])
    twin.step()
    agent[shown:] = 0
    twin.timeline.samples[0, twin.timeline.past_samples :] = 0
    twin.push(agent[shown + twin.lookahead_samples :], user[shown + twin.lookahead_samples :])
    assert np.array_equal(rest(engine), rest(twin))
