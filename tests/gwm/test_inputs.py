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


def test_a_dropped_caption_is_the_empty_one_and_the_others_stay():
    text, empty = torch.randn(3, 5, 2), torch.randn(5, 2)
    dropped = Condition(text=text).without_text(torch.tensor([True, False, True]), empty).text
    assert dropped is not None and torch.equal(dropped[1], text[1])
    assert torch.equal(dropped[0], empty) and torch.equal(dropped[2], empty)
    silent = speech(4)
    assert silent.without_text(torch.tensor([True, True]), empty) is silent
