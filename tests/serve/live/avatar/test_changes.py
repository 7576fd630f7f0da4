"""What a client may ask for, and what is refused before it reaches the engine."""

from typing import Any

import pytest

from serve.live.avatar.changes import PROMPT_CHARS, Act, Rewind, SetPrompt, read_change


def test_a_message_is_read_as_the_change_that_it_asks_for():
    assert read_change({"type": "prompt.set", "text": " a storm "}) == SetPrompt("a storm")
    assert read_change({"type": "action.set", "action": {"left": 1}}) == Act({"left": 1})
    assert read_change({"type": "action.set", "action": {"a": [0.5, -1], "b": None}}) == Act(
        {"a": [0.5, -1], "b": None}
    )
    assert read_change({"type": "action.set", "action": None}) == Act(None)
    assert read_change({"type": "stream.rewind", "chunks": 2}) == Rewind(2)
    assert read_change({"type": "text", "text": "Hello"}) is None


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        ({"type": "prompt.set"}, "text must be text of 1 to"),
        ({"type": "prompt.set", "text": "  "}, "text must be text of 1 to"),
        ({"type": "prompt.set", "text": "a" * (PROMPT_CHARS + 1)}, "text must be text of 1 to"),
        ({"type": "action.set"}, "action must be given"),
        ({"type": "action.set", "action": [1]}, "action must be numbers by name, or null"),
        ({"type": "action.set", "action": {"left": True}}, "action has True, must have finite numbers"),
        ({"type": "action.set", "action": {"left": float("nan")}}, "action has nan, must have finite numbers"),
        ({"type": "action.set", "action": {"left": [10**400]}}, "must have finite numbers in"),
        ({"type": "action.set", "action": {"left": "1"}}, "action has 1, must have finite numbers"),
        ({"type": "action.set", "action": {"left": [0] * 257}}, "action has 257 numbers, must have at most 256"),
        ({"type": "stream.rewind", "chunks": 0}, "chunks=0 must be a whole number of at least 1"),
        ({"type": "stream.rewind", "chunks": 1.5}, "chunks=1.5 must be a whole number"),
        ({"type": "stream.rewind", "chunks": True}, "chunks=True must be a whole number"),
    ],
)
def test_a_change_that_cannot_be_is_refused_with_its_rule(message: dict[str, Any], rule: str):
    with pytest.raises(ValueError, match=rule):
        read_change(message)
