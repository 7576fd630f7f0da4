import torch

from distill.consistency import adjacent_sigmas
from gwm.schedule import sigma_steps


def test_adjacent_levels_and_zero_below_the_last():
    levels = torch.tensor(sigma_steps(4, shift=2.0))
    sigma, below = adjacent_sigmas(levels, torch.tensor([[0, 1, 2, 3]]))
    torch.testing.assert_close(sigma[0], torch.tensor([1.0, 6 / 7, 2 / 3, 0.4]))
    torch.testing.assert_close(below[0], torch.tensor([6 / 7, 2 / 3, 0.4, 0.0]))
