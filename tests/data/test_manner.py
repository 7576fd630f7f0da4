import numpy as np
import pytest

from data.actions import index
from data.manner import MOODS, NAMES, Manner, draw_manner
from data.performance import POSE_LIMIT, perform

FRAMES = 240


def constant(**numbers: float) -> Manner:
    given = np.zeros((FRAMES, len(NAMES)), np.float32)
    for name, value in ({"liveliness": 0.5} | numbers).items():
        given[:, NAMES.index(name)] = value
    return Manner(given)


def test_a_natural_manner_changes_nothing():
    plain, natural = perform(3, FRAMES, "train"), perform(3, FRAMES, "train", constant())
    np.testing.assert_allclose(natural.actions, plain.actions, atol=1e-6)
    np.testing.assert_allclose(natural.pose, plain.pose, atol=1e-6)


@pytest.mark.parametrize(("liveliness", "expected"), [(0.05, 0.28), (1.0, 1.8)])
def test_liveliness_scales_the_head_about_its_place(liveliness: float, expected: float):
    plain, other = perform(3, FRAMES, "train"), perform(3, FRAMES, "train", constant(liveliness=liveliness))
    assert (np.abs(other.pose).max(axis=0) < POSE_LIMIT).all(), "no pose is cut off"
    np.testing.assert_allclose(other.pose.std(axis=0), expected * plain.pose.std(axis=0), rtol=1e-3)
    np.testing.assert_allclose(other.pose.mean(axis=0), plain.pose.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("mood", MOODS)
def test_a_mood_shows_in_its_actions_and_leaves_jaw_and_lids(mood: str):
    plain, other = perform(3, FRAMES, "train"), perform(3, FRAMES, "train", constant(**{mood: 1.0}))
    difference = other.actions - plain.actions
    for name, weight in MOODS[mood].items():
        assert difference[:, index(f"{name}Left" if name not in ("browInnerUp", "mouthShrugLower") else name)].max() > (
            0.5 * weight
        ), name
    for name in ("jawOpen", "eyeBlinkLeft", "mouthFunnel"):
        assert not difference[:, index(name)].any(), name


def test_faces_follow_a_change_within_half_a_second_and_never_before_it():
    given = constant().given.copy()
    given[100:, NAMES.index("joy")] = 1.0
    joy = Manner(given).followed[:, NAMES.index("joy")]
    assert not joy[:100].any() and 0 < joy[100] < 0.2 and joy[112] > 0.8 and joy[-1] == pytest.approx(1, abs=1e-3)


def test_manners_cover_what_a_caller_may_set():
    drawn = np.concatenate([draw_manner(np.random.default_rng(seed), 480).given for seed in range(60)])
    assert drawn[:, 0].min() < 0.1 and drawn[:, 0].max() > 0.95 and (drawn[:, 0] >= 0.05).all()
    moods = drawn[:, 1:]
    assert ((moods > 0).sum(axis=1) <= 1).all() and 0.35 < (moods > 0).any(axis=1).mean() < 0.75
    assert (moods.max(axis=0) > 0.9).all()
