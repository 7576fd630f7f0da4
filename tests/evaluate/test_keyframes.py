"""How near keyframes are followed, on codes whose distance is known."""

import numpy as np
import pytest
import torch

from evaluate.keyframes import distance_px, measure, step_px
from gwm.autoencoders.motion.code import NAMES, SHIFTS_PX, to_latents

JAW, BROW = NAMES.index("jawOpen"), NAMES.index("browInnerUp")
CLIPS, FRAMES = 2, 5


def test_a_distance_is_how_far_the_picture_moves():
    """The jaw off by one in all pixel frames of latent frame 2, and in one of four of frame 3; there the brow too."""
    code, truth = torch.zeros(2, CLIPS, 4 * FRAMES, len(NAMES)).unbind()
    code[1, 8:12, JAW] = 1
    code[1, 13, [JAW, BROW]] = 1
    both = np.hypot(SHIFTS_PX["jawOpen"], SHIFTS_PX["browInnerUp"])
    expected = np.array([[0.0] * 5, [0, 0, SHIFTS_PX["jawOpen"], both / 2, 0]])
    assert distance_px(to_latents(code), to_latents(truth)) == pytest.approx(expected)


def test_a_step_is_onto_the_first_pixel_frame_of_a_given_latent_frame():
    """There is none onto the clip's first frame."""
    code = torch.zeros(CLIPS, 4 * FRAMES, len(NAMES))
    code[1, 12:, JAW] = 1
    assert step_px(to_latents(code), [0, 2, 3]) == pytest.approx(np.array([[0, 0], [0, SHIFTS_PX["jawOpen"]]]))


def test_given_frames_are_measured_apart_from_those_elsewhere():
    truth = torch.zeros(CLIPS, 4 * FRAMES, len(NAMES))
    free, known = truth + 0.0, truth + 0.0
    free[..., JAW] = 1
    known[:, :16, JAW] = 0.5  # the last latent frame is met
    known[:, 16:, JAW] = 0.25
    made = {"free": to_latents(free), "known": to_latents(known), "exact": to_latents(truth)}
    rows, curves = measure(made, to_latents(truth), [4])
    jaw = SHIFTS_PX["jawOpen"]
    wanted = {"free_at": 1.0, "free_elsewhere": 1.0, "known_at": 0.25, "known_elsewhere": 0.5, "exact_at": 0.0}
    for row in rows:
        assert {name: row[name] for name in wanted} == pytest.approx({k: v * jaw for k, v in wanted.items()})
        assert row["share_left"] == pytest.approx(0.25) and row["truth_step"] == 0
        assert row["known_step"] == pytest.approx(0.25 * jaw)
    assert curves["known"] == pytest.approx(jaw * np.array([0.5, 0.5, 0.5, 0.5, 0.25]))
