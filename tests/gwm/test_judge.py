"""The metrics of a clip rank what can be wrong with it: real, blurred, shifted in time, frozen, noise."""

from itertools import pairwise

import numpy as np
import pytest

from gwm.metrics import judge as judging
from gwm.metrics.judge import Judge, Voices
from gwm.metrics.movement import exposure, sharpness
from gwm.optional import MissingPackageError
from tests.gwm.test_metrics import blurred, noisy

SHIFT = 4  # frames
ORDERS = {  # best first; within a group a metric cannot tell, or need not
    "lip_sync": ["real", "blurred", "shifted frozen noise"],
    "psnr": ["real", "blurred shifted frozen", "noise"],
    "ssim": ["real", "blurred shifted frozen", "noise"],
    "perceptual": ["real", "shifted frozen", "blurred", "noise"],
    "identity": ["real shifted frozen", "blurred"],
    "faces_found": ["real blurred shifted frozen", "noise"],
}
LESS_IS_BETTER = {"perceptual"}


@pytest.fixture(scope="module")
def judge(mesh) -> Judge:
    return Judge(thorough=True)


@pytest.fixture(scope="module")
def rows(talks, judge) -> dict[str, dict[str, float]]:
    talk = talks[0]
    versions = {
        "real": talk.frames,
        "blurred": blurred(talk.frames, 1.5),
        "shifted": np.roll(talk.frames, SHIFT, axis=0),
        "frozen": np.repeat(talk.frames[:1], len(talk.frames), axis=0),
        "noise": noisy(talk.frames, 120),
    }
    truth = {"render": talk.frames, "mouth": talk.mouth, "reference": talk.frames[0], "chunk_frames": 4}
    return {name: judge(frames, **truth)[0] for name, frames in versions.items()}


@pytest.mark.parametrize("metric", ORDERS)
def test_metric_ranks_from_real_to_noise(rows, metric, judge):
    if metric in judge.skipped:
        pytest.skip(judge.skipped[metric])
    sign = -1 if metric in LESS_IS_BETTER else 1
    groups = [[sign * rows[version][metric] for version in group.split()] for group in ORDERS[metric]]
    assert all(min(better) > max(worse) for better, worse in pairwise(groups)), groups


def test_motion_and_sharpness_know_still_and_noisy_clips(rows):
    motion, sharp = ({name: row[metric] for name, row in rows.items()} for metric in ("motion", "sharpness"))
    assert motion["frozen"] == 0 < motion["blurred"] < motion["real"] == 1 < motion["noise"]
    assert sharp["blurred"] < 0.7 < sharp["real"] == 1 < sharp["noise"]


def test_a_frozen_clip_opens_no_mouth_and_moves_no_head(rows):
    """What is blurred opens and moves about as far as what is sharp."""
    for name in ("opening", "head_motion"):
        assert rows["frozen"][name] < 1e-6 < 1e-3 < rows["real"][name]
        assert 0.5 < rows["blurred"][name] / rows["real"][name] < 2


def test_a_late_mouth_has_its_lag_and_a_frozen_one_no_lip_sync(rows):
    assert rows["shifted"]["lag_frames"] == SHIFT
    assert rows["real"]["lag_frames"] == 0
    assert max(abs(rows[name]["lip_sync"]) for name in ("shifted", "frozen")) < 0.5 < rows["blurred"]["lip_sync"]


def test_drawn_characters_are_measured_without_a_face(talks, judge):
    frames = talks[0].frames
    row, opening = judge(frames, render=frames, mouth=None, reference=frames[0], chunk_frames=4)
    assert np.isnan(opening).all()
    assert not {"lip_sync", "identity", "faces_found", "false_mouth"} & set(row)
    assert row["psnr"] > 58


def test_footage_is_measured_as_far_as_it_needs_no_truth(talks, judge):
    """The same clip with and without its truth: all but the lip-sync, for which a network stands in."""
    talk = talks[0]
    voice = np.full(24_000, 0.1, np.float32)
    truth = {"render": talk.frames, "reference": talk.frames[0], "chunk_frames": 4}
    truth["voices"] = Voices(agent=voice, user=0 * voice, listening=np.zeros(24, bool))
    known, unknown = (judge(talk.frames, **truth, mouth=m, footage=m is None)[0] for m in (talk.mouth, None))
    assert unknown == {name: value for name, value in known.items() if name not in ("lip_sync", "lag_frames")}
    assert unknown["faces_found"] == 1 and "psnr" in unknown


def test_listening_is_judged_where_the_user_speaks(talks, judge):
    """The same clip: its mouth moves, which is wrong only while it should listen."""
    talk = talks[0]
    sound = np.zeros(24_000, np.float32)
    truth = {"render": talk.frames, "mouth": talk.mouth, "reference": talk.frames[talk.mouth.argmin()]}
    rows = [
        judge(talk.frames, **truth, chunk_frames=4, voices=Voices(agent=sound, user=sound, listening=listening))[0]
        for listening in (talk.mouth > 0.3, np.zeros(24, bool))
    ]
    assert rows[0]["false_mouth"] > 0.8
    assert "false_mouth" not in rows[1]
    assert rows[0]["blinks_per_minute"] == 60


def test_missing_packages_are_named_and_never_a_zero(talks, monkeypatch, tmp_path):
    def missing(*_):
        raise MissingPackageError("dlib", "pip install dlib-bin")

    monkeypatch.setattr(judging, "FaceEmbedding", missing)
    monkeypatch.setattr(judging, "PerceptualDistance", missing)
    judge = Judge(thorough=True, sync=tmp_path)
    assert set(judge.skipped) == {"identity", "perceptual", "sync_confidence"}
    assert judge.skipped["sync_confidence"].startswith("python train.py stage=sync")
    frames = talks[0].frames[:12]
    row, _ = judge(frames, render=frames, mouth=talks[0].mouth[:12], reference=frames[0], chunk_frames=4)
    assert not {"identity", "perceptual", "sync_confidence"} & set(row)


def test_exposure_and_sharpness_of_known_pictures():
    ramp = np.zeros((1, 8, 8, 3), np.uint8)
    ramp[:, :, 4:] = 255
    assert exposure(ramp)[0] == pytest.approx(0.5)
    assert exposure(np.full((1, 4, 4, 3), 255, np.uint8))[0] == pytest.approx(1)
    assert sharpness(ramp)[0] == pytest.approx(2 * 255 / 6)  # both sides of the edge, of six inner columns
    assert sharpness(np.full((2, 5, 5, 3), 9, np.uint8)).tolist() == [0, 0]
