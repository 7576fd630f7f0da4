"""Scales of two conditions against values worked out by hand, in both conventions of published code."""

import dataclasses

import pytest
import torch
from torch import Tensor

from distill.dmd import DMDRules, dmd_loss, scored_clip
from gwm.block import Context
from gwm.clip import CleanClip
from gwm.condition.inputs import Conditions
from gwm.config import DiTConfig
from gwm.dit import Prediction
from gwm.guidance import Guidance, with_guidance
from tests.tiny import DIT

ROUND = 1e-5  # float32
FULL, TOLD, NOTHING = 5.0, 3.0, 2.0  # what the model says of voice and text, of the text alone, of neither
CONDITION = Conditions(
    frame={"agent": torch.ones(2, 2, 1), "user": torch.ones(2, 2, 1)},
    tokens={"text": torch.ones(2, 3, 1)},
    nothing={"text": torch.full((1, 1), 7.0)},
)


class Says:
    """A model of one number; writes down its conditions."""

    def __init__(self) -> None:
        self.heard: list[Conditions] = []

    def __call__(self, condition: Conditions) -> Tensor:
        self.heard.append(condition)
        voiced = "agent" in condition.frame and bool(condition["agent"].any())
        value = (FULL if voiced else TOLD) if (condition["text"] == 1).all() else NOTHING
        return torch.full((1, 1, 1, 1, 1), value)


def lineage(agent: float, text: float) -> float:
    """cond + g (cond - uncond), for each condition: what Self-Forcing's guidance_scale multiplies."""
    return FULL + text * (TOLD - NOTHING) + agent * (FULL - TOLD)


# Scales, the value by hand, the passes. The lineage's 3.0 is 4.0 here; its 1.0 is 2.0; none is 0.0 there and 1.0 here.
GOLDEN = [
    (1.0, 1.0, 5.0, 1),
    (4.0, 1.0, 3 + 4 * 2, 2),
    (1.0, 4.0, 2 + 4 * 1 + 2, 3),
    (4.0, 4.0, 2 + 4 * 3, 2),
    (2.0, 4.0, 2 + 4 * 1 + 2 * 2, 3),
    (0.0, 1.0, 3.0, 2),
]


@pytest.mark.parametrize(("agent", "text", "value", "passes"), GOLDEN)
def test_each_condition_is_pushed_by_its_own_scale(agent: float, text: float, value: float, passes: int):
    model = Says()
    conditional, pushed = with_guidance(model, CONDITION, Guidance(agent=agent, text=text))
    assert (conditional.item(), pushed.item()) == (FULL, pytest.approx(value, rel=ROUND))
    assert pushed.item() == pytest.approx(lineage(agent - 1, text - 1), rel=ROUND)
    assert len(model.heard) == passes


def test_a_dropped_text_is_the_empty_caption_and_the_other_side_is_always_heard():
    model = Says()
    with_guidance(model, CONDITION, Guidance(agent=2.0, text=3.0))
    texts = [condition["text"][0, :, 0].tolist() for condition in model.heard]
    assert texts == [[1, 1, 1], [1, 1, 1], [7, 0, 0]]
    assert all(condition["user"] is CONDITION["user"] for condition in model.heard)


def test_a_condition_that_is_not_there_needs_no_pass_of_its_own():
    model = Says()
    pushed = with_guidance(
        model, dataclasses.replace(CONDITION, frame={"user": CONDITION["user"]}), Guidance(text=4.0)
    )[1]
    assert pushed.item() == pytest.approx(NOTHING + 4 * (TOLD - NOTHING), rel=ROUND)
    assert len(model.heard) == 2


class Table:
    """Says that the clean clip is one of three, by its conditions."""

    config = DiTConfig(in_channels=1, patch=1)

    def __init__(self, full: list[int], partial: list[int], nothing: list[int]) -> None:
        self.answers = {(True, True): full, (False, True): partial, (False, False): nothing}

    def __call__(
        self, x: Tensor, sigma: Tensor, condition: Conditions, *, positions: Tensor, context: Context,
        reference: Tensor | None = None,
    ) -> Prediction:  # fmt: skip
        x0 = torch.tensor(self.answers[bool(condition["agent"].any()), bool((condition["text"] == 1).all())]).float()
        velocity = (x[:, 1:] - x0[:, None, None, None]) / sigma[:, 1:, None, None, None]
        return Prediction(torch.cat([torch.zeros_like(x[:, :1]), velocity], dim=1), ())


def test_dmd_gradient_with_both_scales_is_the_one_worked_out_by_hand():
    """Teacher at text 3, agent 2 (2 and 1 in the lineage): 1 + 3 (0 - 1) + 2 (1 - 0) = 0 and 1 + 3 (1 - 1) + 2 (0 - 1)
    = -1. So the clip 1, 2 is 1 and 3 away, 2 in the mean; critic - teacher is 2, 2; over 2 and over 2 elements: 1/2."""
    guidance = Guidance(agent=2.0, text=3.0)
    rules = DMDRules(normaliser="sample", normaliser_floor=1e-3, guidance=guidance, shift=1.0, sigma_range=(0.4, 0.98))
    x0 = torch.tensor([[1.0, 2.0]])[..., None, None, None].requires_grad_()
    condition = Conditions(
        frame={"agent": torch.ones(1, 2, 1)}, tokens={"text": torch.ones(1, 3, 1)}, nothing={"text": torch.zeros(1, 1)}
    )
    scored = scored_clip(
        rules, CleanClip(x0.detach(), torch.zeros(1, 1, 1, 1, 1), condition), teacher=Table([1, 0], [0, 1], [1, 1]),
        critic=Table([2, 1], [], []), chunk_frames=1, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    made = torch.autograd.grad(dmd_loss(x0, scored.direction), x0)[0].flatten()
    torch.testing.assert_close(made, torch.tensor([0.5, 0.5]), rtol=ROUND, atol=ROUND)


def test_scales_of_conditions_that_the_model_lacks_are_errors():
    Guidance(agent=3.0).check(DIT)
    with pytest.raises(ValueError, match=r"guidance\.text=4 must be 1, or equal to another scale"):
        Guidance(text=4.0).check(DIT)
    with pytest.raises(ValueError, match=r"guidance\.agent=2 must be 1"):
        Guidance(agent=2.0).check(dataclasses.replace(DIT, conditions=()))
