"""What the measure of the motion autoencoder says of perfect and of motionless pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data.characters.exact_flow import MotionRenderer
from data.characters.renderer import Renderer
from evaluate import motion_autoencoder
from evaluate.motion_autoencoder import (
    Case,
    Measure,
    decode,
    drawn_cases,
    drawn_mouth,
    make_case,
    mouth_change,
    summary,
    telling,
)
from gwm.autoencoders.families import load_autoencoder
from gwm.autoencoders.motion.code import physical
from gwm.autoencoders.motion.codec import MotionAutoencoder
from gwm.media.face import FaceMesh
from gwm.metrics.face_track import face_track, lip_gap
from gwm.metrics.lip_sync import correlation, lip_sync, moves


@pytest.fixture(scope="module")
def drawer() -> MotionRenderer:
    return MotionRenderer(Renderer(256))


@pytest.fixture(scope="module")
def case(drawer: MotionRenderer) -> Case:
    cases = (make_case(drawer, k, style="anny", frames=12, head_motion=0.4) for k in range(20))
    return next(case for case in cases if moves(case.opening))


def test_a_case_s_codes_are_what_was_acted(case: Case):
    acted = physical(case.code)
    torch.testing.assert_close(acted[:, :52], torch.from_numpy(case.act.actions))
    turned = acted[:, 52:55] - 0.4 * torch.from_numpy(case.act.pose)
    torch.testing.assert_close(turned, turned[:1].expand_as(turned), rtol=0, atol=1e-6)  # minus the reference's


def test_renders_reach_their_own_measures_and_a_still_none_of_the_opening(case: Case):
    measure = Measure()
    own = measure(case.motion.frames, case)
    still = measure(np.repeat(case.motion.reference[None], 12, 0), case)
    assert own["opening_of_render"] == pytest.approx(1) and own["psnr"] > 58
    assert still["opening_of_render"] < 0.05 and still["identity"] == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
def test_another_person_s_codes_move_this_portrait_s_lips_as_far_as_its_own_person_s(drawer: MotionRenderer):
    """The shipped autoencoder: they follow whoever drives them nine tenths as well as in the driver's own portrait."""
    codec, mesh = load_autoencoder(Path("weights/character")), FaceMesh()
    assert isinstance(codec, MotionAutoencoder)
    made = (make_case(drawer, k, style="anny", frames=36, head_motion=0.4) for k in range(40))
    cases = [case for case in made if moves(case.opening)][:3]

    def follows(case: Case, reference: np.ndarray) -> float:
        return lip_sync(lip_gap(face_track(decode(codec, reference, case.latents), mesh)), case.opening).correlation

    own = np.mean([follows(case, case.motion.reference) for case in cases])
    driven = np.mean([follows(a, b.motion.reference) for a, b in zip(cases, cases[1:] + cases[:1], strict=True)])
    assert driven >= 0.9 * own > 0.5


def test_a_drawn_mouth_is_what_an_opening_changes(drawer: MotionRenderer):
    """Oracle: the frames as they are have the change of the frames, and a still picture has none; eyes do not count."""
    case = make_case(drawer, 11, style="critters", frames=48, head_motion=0.0)
    mouth = drawn_mouth(case)
    rows, columns = np.nonzero(mouth)
    assert 20 < mouth.sum() < 0.1 * mouth.size and np.ptp(rows) < 80 and np.ptp(columns) < 100
    change = mouth_change(case.motion.frames, case.motion.reference, mouth)
    still = np.repeat(case.motion.reference[None], 2, 0)
    assert correlation(change, case.opening) > 0.8 and not mouth_change(still, case.motion.reference, mouth).any()


def test_drawn_characters_are_of_six_styles_and_each_mouth_moves_with_what_is_said(
    drawer: MotionRenderer, monkeypatch: pytest.MonkeyPatch
):
    styles = []

    def recorded(drawer: MotionRenderer, number: int, *, style: str, frames: int, head_motion: float) -> Case:
        styles.append(style)
        return make_case(drawer, number, style=style, frames=frames, head_motion=head_motion)

    monkeypatch.setattr(motion_autoencoder, "make_case", recorded)
    for case in drawn_cases(drawer, 6, frames=48):
        change = mouth_change(case.motion.frames, case.motion.reference, drawn_mouth(case))
        assert correlation(change, case.opening) > 0.5  # a grin changes more pixels than a wider round mouth
    assert len(set(styles)) == 6


def test_a_summary_counts_what_was_measured():
    table = summary([{"a": 1.0, "b": 2.0}, {"a": 3.0}])
    assert table["a"]["mean"] == 2 and table["a"]["count"] == 2
    assert table["b"]["mean"] == 2 and table["b"]["count"] == 1


def test_a_sheet_shows_the_widest_mouth(case: Case):
    assert int(case.opening.argmax()) in telling(case, 5)
