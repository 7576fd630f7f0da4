from functools import partial

import pytest
import torch
from torch import nn

from train.learner import Learner


def test_the_average_is_the_exponential_mean_of_the_weights_after_each_step():
    """The first step's weights, then d * mean + (1 - d) * weights, where d rises as (1 + n) / (10 + n) to the decay."""
    model = nn.Linear(1, 1, bias=False)
    learner = Learner(
        model, optimizer=partial(torch.optim.SGD, lr=0.1), schedule_steps=100, warmup_steps=1, ema_decay=0.2
    )
    optimizer, seen = learner.optimizers()["optimizer"], []
    for _ in range(4):
        optimizer.zero_grad()
        (model.weight - 1).square().sum().backward()
        optimizer.step()
        seen.append(model.weight.item())
    expected = seen[0]
    for weight, decay in zip(seen[1:], (2 / 11, 0.2, 0.2), strict=True):  # 2/11, then 3/12 and 4/13 are over 0.2
        expected = decay * expected + (1 - decay) * weight
    assert learner.ema_model.weight.item() == pytest.approx(expected, rel=1e-6)


def test_rates_rise_to_their_value_and_fall_to_zero():
    learner = Learner(
        nn.Linear(1, 1), optimizer=partial(torch.optim.SGD, lr=2.0), schedule_steps=14, warmup_steps=4, ema_decay=0.9
    )
    made = learner.optimizers()
    optimizer, scheduler, rates = made["optimizer"], made["lr_scheduler"]["scheduler"], []
    for _ in range(15):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[9] == pytest.approx(1.0)  # half way down
    assert rates[14] == pytest.approx(0.0)
