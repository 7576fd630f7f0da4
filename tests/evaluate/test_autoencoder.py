"""What the measure of the motion autoencoder says of perfect and of motionless pictures."""

import numpy as np
import pytest
import torch

from data.characters.flow import MotionRenderer
from data.characters.renderer import Renderer
from evaluate.autoencoder import Case, Measure, make_case, mouth_change, summary, telling
from gwm.autoencoders.motion.code import physical
from gwm.metrics.lip_sync import moves


@pytest.fixture(scope="module")
def case() -> Case:
    drawer = MotionRenderer(Renderer(256))
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


def test_mouth_change_counts_the_mouth_s_pixels_alone():
    reference = np.zeros((256, 256, 3), np.uint8)
    frames = np.zeros((2, 256, 256, 3), np.uint8)
    frames[1, 148:243, 64:192] = 7
    frames[1, :100] = 255
    assert list(mouth_change(frames, reference)) == [0, 7]


def test_a_summary_counts_what_was_measured():
    table = summary([{"a": 1.0, "b": 2.0}, {"a": 3.0}])
    assert table["a"]["mean"] == 2 and table["a"]["count"] == 2
    assert table["b"]["mean"] == 2 and table["b"]["count"] == 1


def test_a_sheet_shows_the_widest_mouth(case: Case):
    assert int(case.opening.argmax()) in telling(case, 5)
