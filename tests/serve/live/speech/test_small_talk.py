import pytest

from serve.live.speech.services import NOTHING, small_talk


@pytest.mark.parametrize(
    ("heard", "part"),
    [
        ("Hello there", "good to see you"),
        ("what is YOUR NAME?", "My name is Noa"),
        ("", NOTHING),
        ("thanks!", "welcome"),
    ],
)
def test_rules_answer(heard: str, part: str):
    assert part in small_talk(heard, name="Noa")


def test_what_no_rule_knows_is_repeated_as_a_sentence():
    assert small_talk("I have a red bicycle", name="Noa").startswith("You said: I have a red bicycle. ")


def test_what_was_heard_is_never_taken_for_a_template():
    assert "{name}" in small_talk("I like {name}", name="Noa")
