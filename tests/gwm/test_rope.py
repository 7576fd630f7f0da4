import math

import pytest
import torch

from gwm.rope import THETA, axis_pairs, rotation, time_rotation
from kernels.attention import rotate_pairs

HEAD_DIM = 16
LATE = 100_000  # latent frames: more than four hours
FP32 = 1e-5


def dots(query_frame: int, key_frame: int, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Scores between all tokens of two frames of 2 x 3 tokens."""
    turned_q = rotate_pairs(q, *rotation(torch.tensor([query_frame]), 2, 3, HEAD_DIM))
    turned_k = rotate_pairs(k, *rotation(torch.tensor([key_frame]), 2, 3, HEAD_DIM))
    return torch.einsum("blne,bsne->bnls", turned_q, turned_k)


@pytest.mark.parametrize("difference", [0, 1, 7, 200])
def test_scores_depend_only_on_the_difference_of_frames_even_late(difference: int):
    q, k = torch.nn.functional.normalize(torch.randn(2, 1, 6, 2, HEAD_DIM), dim=-1)
    early, late = dots(difference, 0, q, k), dots(LATE + difference, LATE, q, k)
    torch.testing.assert_close(late, early, rtol=0, atol=FP32)


def test_scores_depend_on_the_difference_of_frames():
    q, k = torch.nn.functional.normalize(torch.randn(2, 1, 6, 2, HEAD_DIM), dim=-1)
    assert (dots(LATE + 1, LATE, q, k) - dots(LATE, LATE, q, k)).abs().max() > 0.1


@pytest.mark.parametrize("frame", [0, 5, 57_600, LATE + 1])
def test_angles_are_those_of_float64(frame: int):
    cos, sin = rotation(torch.tensor([frame]), 2, 3, HEAD_DIM)
    pairs = axis_pairs(HEAD_DIM)
    for row in range(2):
        for column in range(3):
            angles = [
                position * THETA ** (-j / count)
                for position, count in zip((frame, row, column), pairs, strict=True)
                for j in range(count)
            ]
            expected_cos = torch.tensor([math.cos(a) for a in angles]).repeat_interleave(2)
            expected_sin = torch.tensor([math.sin(a) for a in angles]).repeat_interleave(2)
            torch.testing.assert_close(cos[3 * row + column], expected_cos, rtol=0, atol=2e-7)
            torch.testing.assert_close(sin[3 * row + column], expected_sin, rtol=0, atol=2e-7)


def test_rotate_multiplies_pairs_as_complex_numbers():
    x = torch.randn(2, 6, 2, HEAD_DIM)
    cos, sin = rotation(torch.tensor([11]), 2, 3, HEAD_DIM)
    turn = torch.complex(cos[:, None, ::2], sin[:, None, ::2])
    expected = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)
    torch.testing.assert_close(rotate_pairs(x, cos, sin), expected, rtol=FP32, atol=FP32)


def test_time_rotation_moves_keys_to_a_later_frame():
    k = torch.randn(2, 6, 2, HEAD_DIM)
    there = rotate_pairs(k, *rotation(torch.tensor([3 + LATE]), 2, 3, HEAD_DIM))
    moved = rotate_pairs(
        rotate_pairs(k, *rotation(torch.tensor([3]), 2, 3, HEAD_DIM)), *time_rotation(torch.tensor(LATE), HEAD_DIM)
    )
    torch.testing.assert_close(moved, there, rtol=FP32, atol=FP32)


def test_pairs_are_divided_as_in_wan():
    assert axis_pairs(128) == (22, 21, 21)
