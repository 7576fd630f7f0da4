"""Listening metrics against what the renderer was told."""

import numpy as np
import pytest

from data.actions import ACTION_NAMES, index
from data.characters.renderer import Renderer, identity
from gwm.metrics.face_track import eye_contrast, face_track, head_pitch, lip_gap
from gwm.metrics.listening import ANSWER_FRAMES, false_mouth, num_blinks, num_nods, per_minute, response

FRAMES = 40
NOD = 0.15 * np.sin(np.pi * np.linspace(0, 1, 12)) ** 2
EVERYWHERE = np.ones(FRAMES, bool)


@pytest.fixture(scope="module")
def listener(mesh):
    """A person who blinks twice, nods once and opens the mouth in the last ten frames; frames and track."""
    actions, pose = np.zeros((FRAMES, len(ACTION_NAMES)), np.float32), np.zeros((FRAMES, 3), np.float32)
    for start in (4, 25):
        actions[start : start + 4, [index("eyeBlinkLeft"), index("eyeBlinkRight")]] = [[0.5], [1], [0.8], [0.3]]
    actions[-10:, index("jawOpen")] = 0.6
    pose[10:22, 1] -= NOD
    frames = Renderer(128).render(identity(12, "anny"), actions, pose, np.zeros((FRAMES, 2), np.float32))
    return frames, face_track(frames, mesh)


def test_open_mouth_is_seen_and_shut_one_is_not(listener):
    gap = lip_gap(listener[1])
    shut = float(gap[0])
    assert false_mouth(gap, shut, np.arange(FRAMES) < 29) == 0
    assert false_mouth(gap, shut, np.arange(FRAMES) >= 30) == 1
    assert false_mouth(gap, shut, EVERYWHERE) == pytest.approx(0.25, abs=0.03)
    assert np.isnan(false_mouth(gap, shut, ~EVERYWHERE))


def test_faces_not_found_do_not_count_as_shut_mouths():
    gap = np.array([0.2, np.nan, np.nan, 0.0])
    assert false_mouth(gap, 0.0, np.ones(4, bool)) == 0.5


def test_blinks_are_counted(listener):
    frames, track = listener
    assert num_blinks(eye_contrast(frames, track)) == 2
    assert num_blinks(eye_contrast(np.repeat(frames[:1], 9, 0), np.repeat(track[:1], 9, 0))) == 0
    assert num_blinks(np.full(5, np.nan)) == 0


def test_nods_are_counted(listener):
    assert num_nods(head_pitch(listener[1])) == 1
    assert num_nods(head_pitch(listener[1][:11])) == 0


@pytest.mark.parametrize(("nods", "depth", "expected"), [(3, 0.12, 3), (3, 0.04, 0), (1, -0.12, 0)])
def test_a_nod_goes_down_and_returns(nods, depth, expected):
    pitch = -np.tile(np.concatenate([np.sin(np.pi * np.linspace(0, 1, 12)) ** 2 * depth, np.zeros(8)]), nods)
    assert num_nods(pitch) == expected
    assert num_nods(pitch + 0.3) == expected


def test_rates_are_per_minute():
    assert per_minute(2, 48) == 60


def test_pitch_follows_the_head(listener):
    pitch = head_pitch(listener[1])
    assert np.corrcoef(pitch[10:22], -NOD)[0, 1] > 0.9
    assert pitch[:10].mean() - pitch[10:22].min() == pytest.approx(0.15, abs=0.06)


def voice_and_answer(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A voice of random loudness and the pitch of a head that goes down with it, ANSWER_FRAMES later."""
    rng = np.random.default_rng(seed)
    loud = rng.random(96)
    voice = np.repeat(loud, 1000) * rng.choice([-1.0, 1.0], 96_000)
    return voice.astype(np.float32), -np.roll(loud, ANSWER_FRAMES)


def test_response_is_high_for_an_answer_and_zero_for_a_shuffled_or_deaf_one():
    listening = np.ones(96, bool)
    pairs = [voice_and_answer(seed) for seed in range(8)]
    own = [response(pitch, voice, listening) for voice, pitch in pairs]
    shuffled = [response(pitch, pairs[i - 1][0], listening) for i, (_, pitch) in enumerate(pairs)]
    assert min(own) > 0.95
    assert abs(np.mean(shuffled)) < 0.15
    assert response(np.zeros(96), pairs[0][0], listening) == 0
    assert response(-pairs[0][1], pairs[0][0], listening) < -0.95  # a head that rises does not nod


def test_response_needs_a_second_of_listening():
    voice, pitch = voice_and_answer(0)
    assert np.isnan(response(pitch, voice, np.arange(96) < 20))
