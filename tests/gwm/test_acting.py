"""Each measure of acting on codes whose answer is known."""

import numpy as np
import pytest

from gwm.autoencoders.motion.code import WIDTH, place
from gwm.metrics.acting import RATIOS, distances, measure, steps

FRAMES = 240  # ten seconds
SILENCE = np.zeros(1000 * FRAMES, np.float32)
ALWAYS = np.ones(FRAMES, bool)


def code(**tracks: np.ndarray) -> np.ndarray:
    """All at rest but the numbers that are named."""
    made = np.zeros((FRAMES, WIDTH))
    for name, track in tracks.items():
        made[:, place(name)] = track
    return made


@pytest.mark.parametrize("name", RATIOS)
def test_each_measure_sees_its_own_numbers_and_no_others(name: str):
    """Of a movement of known size."""
    time = np.arange(FRAMES)
    blinks = np.isin(time % 80, (40, 41, 42)) * 0.9  # three in ten seconds
    there_and_back = np.where(time % 2, 0.3, 0.0)
    cases = {
        "opening": (code(jawOpen=there_and_back), 0.15),
        "blinks": (code(eyeBlinkLeft=blinks), 18.0),
        "head": (code(yaw=0.03 * time, roll=0.04 * time), 0.05),
        "head_spread": (code(pitch=there_and_back, yaw=there_and_back), 0.15 * 2**0.5),
        "brows": (code(browInnerUp=there_and_back), 0.3),
        "gaze": (code(gazeX=0.6 * there_and_back, gazeY=0.8 * there_and_back), 0.3),
    }
    for case, (made, expected) in cases.items():
        found = measure(made, made, SILENCE, ALWAYS)[name]
        if case == name:
            assert found == pytest.approx(expected)
        elif {case, name} != {"head", "head_spread"}:
            assert found == 0


def test_a_false_mouth_is_counted_while_listening_alone():
    time = np.arange(FRAMES)
    made = code(jawOpen=np.where(time < 60, 0.2, 0.05) * (time < 180) + 0.9 * (time >= 180))
    assert measure(made, made, SILENCE, time < 180)["false_mouth"] == pytest.approx(1 / 3)
    assert np.isnan(measure(made, made, SILENCE, time < 20)["false_mouth"])


def test_distances_are_shifts_in_deviations_of_the_truth():
    rng = np.random.default_rng(0)
    truth = code(jawOpen=rng.random(FRAMES), yaw=rng.random(FRAMES).cumsum())
    wider = truth.copy()
    wider[:, place("jawOpen")] += 2 * truth[:, place("jawOpen")].std()
    found = distances([wider], [truth])
    assert found["jaw_distance"] == pytest.approx(2)
    assert found["jaw_speed_distance"] == pytest.approx(0, abs=1e-9) and found["head_speed_distance"] == 0
    faster = truth.copy()
    faster[:, place("yaw")] *= 2  # every speed is twice as high
    steps = np.abs(np.diff(truth[:, place("yaw")]))
    assert distances([faster], [truth])["head_speed_distance"] == pytest.approx(steps.mean() / steps.std())


def test_a_staircase_has_steps_and_a_glide_none():
    time = np.arange(FRAMES)
    assert steps(time[:, None].astype(float)) == pytest.approx(1)
    assert steps(time[:, None] // 4 + 0.1 * time[:, None]) == pytest.approx(11)
