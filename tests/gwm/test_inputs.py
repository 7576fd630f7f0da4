import dataclasses

import pytest
import torch

from gwm.condition.inputs import Conditions
from tests.tiny import speech


def test_the_reference_image_hears_nothing_and_shifts_no_frame():
    condition = speech(4)
    after = condition.after_reference()
    for stream, shifted in ((condition["agent"], after["agent"]), (condition["user"], after["user"])):
        assert not shifted[:, 0].any()
        assert torch.equal(shifted[:, 1:], stream)


def test_the_reference_image_has_channels_of_its_own():
    own, after = torch.randn(1, 1, 2, 3, 4), torch.randn(1, 5, 2, 3, 4)
    condition = Conditions(channels={"given": after}, reference_channels={"given": own})
    assert torch.equal(condition.after_reference()["given"], torch.cat([own, after], dim=1))
    with pytest.raises(ValueError, match=r"reference_channels has no \['given'\]"):
        Conditions(channels={"given": after}).after_reference()


def test_a_repeated_clip_hears_the_same_twice_but_for_its_first_frames():
    condition = speech(4).repeat_clip(1)
    assert condition["agent"].shape[1] == 7
    assert torch.equal(condition["agent"][:, 4:], condition["agent"][:, 1:4])


def test_a_condition_is_dropped_alone_and_only_where_asked():
    condition = speech(4)
    dropped = condition.dropped("agent", torch.tensor([True, False]))
    assert not dropped["agent"][0].any()
    assert torch.equal(dropped["agent"][1], condition["agent"][1])
    assert dropped["user"] is condition["user"]
    assert not condition.dropped("agent")["agent"].any()


def test_a_dropped_text_is_that_of_a_clip_without_caption():
    """Tokens of the empty caption and zeros behind them; zeros alone are not what training saw."""
    text, empty = torch.randn(2, 4, 3), torch.randn(1, 3)
    condition = Conditions(tokens={"text": text}, nothing={"text": empty})
    nothing = torch.cat([empty, torch.zeros(3, 3)])
    some = condition.dropped("text", torch.tensor([False, True]))["text"]
    assert torch.equal(some, torch.stack([text[0], nothing]))
    assert torch.equal(condition.dropped("text")["text"], torch.stack([nothing, nothing]))
    with pytest.raises(ValueError, match="nothing has no 'text', must have the tokens of the empty one"):
        dataclasses.replace(condition, nothing={}).dropped("text")
    assert not speech(2).dropped("text").tokens


def test_conditions_survive_their_flat_names():
    condition = speech(2).with_tokens(text=torch.randn(2, 3, 4))
    flat = condition.flat()
    assert sorted(flat) == ["frame.agent", "frame.user", "tokens.text"]
    again = Conditions.from_flat(flat)
    assert again == condition


def test_a_condition_that_is_not_given_is_named():
    with pytest.raises(ValueError, match=r"condition 'camera' is not given.*given are \['agent', 'user'\]"):
        speech(2)["camera"]
