import dataclasses

import pytest
import torch

from gwm.dit import velocity_towards
from gwm.schedule import add_noise
from tests.tiny import DIT
from train.flow import clean_weight, velocity_loss


def test_errors_in_x0_count_alike_at_every_level():
    config = dataclasses.replace(DIT, around_reference=True)
    sigma = torch.tensor([[0.1, 0.5, 1.0]])
    weight = clean_weight(sigma, config)
    assert weight is not None
    x0, noise = torch.randn(2, 1, 3, DIT.in_channels, 4, 4)
    x = add_noise(x0, noise, sigma)
    off = 0.3 * torch.ones_like(x0)
    velocity = velocity_towards(x0 + off, x, sigma)
    loss = velocity_loss(velocity, x0, noise, torch.ones(4, 4), level_weight=weight)
    assert loss.item() == pytest.approx(0.09, rel=1e-4)
    assert clean_weight(sigma, DIT) is None
