import dataclasses

import pytest
import torch

from gwm.condition.inputs import Condition
from tests.tiny import speech


def test_the_reference_image_hears_nothing_and_shifts_no_frame():
    condition = speech(4)
    after = condition.after_reference()
    for stream, shifted in ((condition.agent, after.agent), (condition.user, after.user)):
        assert stream is not None and shifted is not None
        assert not shifted[:, 0].any()
        assert torch.equal(shifted[:, 1:], stream)


def test_a_repeated_clip_hears_the_same_twice_but_for_its_first_frames():
    condition = speech(4).repeat_clip(1)
    assert condition.agent is not None and condition.agent.shape[1] == 7
    assert torch.equal(condition.agent[:, 4:], condition.agent[:, 1:4])


def test_without_agent_drops_only_the_agent_and_only_where_asked():
    condition = speech(4)
    dropped = condition.without_agent(torch.tensor([True, False]))
    assert dropped.agent is not None and condition.agent is not None
    assert not dropped.agent[0].any()
    assert torch.equal(dropped.agent[1], condition.agent[1])
    assert dropped.user is condition.user
    everywhere = condition.without_agent().agent
    assert everywhere is not None and not everywhere.any()


def test_a_dropped_text_is_that_of_a_clip_without_caption():
    """Tokens of the empty caption and zeros behind them; zeros alone are not what training saw."""
    condition = Condition(text=torch.randn(2, 4, 3), no_text=torch.randn(1, 3))
    assert condition.text is not None and condition.no_text is not None
    nothing = torch.cat([condition.no_text, torch.zeros(3, 3)])
    some = condition.without_text(torch.tensor([False, True])).text
    assert some is not None and torch.equal(some, torch.stack([condition.text[0], nothing]))
    every = condition.without_text().text
    assert every is not None and torch.equal(every, torch.stack([nothing, nothing]))
    with pytest.raises(ValueError, match="no_text is None, must be the tokens of the empty caption"):
        dataclasses.replace(condition, no_text=None).without_text()
    assert speech(2).without_text().text is None
