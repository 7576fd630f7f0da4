"""Questions about what the visitor shows, known by their words."""

import asyncio

import pytest

from serve.live.speech.sight_rules import about_sight, sources_of
from serve.live.vision.sight import ON_REQUEST
from tests.serve.live.vision.test_sight import Setting


@pytest.mark.parametrize(
    ("heard", "sources"),
    [
        ("What is on my screen?", ("screen",)),
        ("Please read this for me.", ("screen",)),
        ("Do I look tired?", ("camera",)),
        ("Look at me!", ("camera",)),
        ("What do you see?", ("camera", "screen")),
        ("Can you see anything?", ("camera", "screen")),
        ("Look at that.", ("camera", "screen")),
        ("Where do I see a doctor?", ()),
        ("I like your face.", ()),
    ],
)
def test_a_question_names_the_sources_that_it_is_about(heard: str, sources: tuple[str, ...]):
    setting = Setting(mode=ON_REQUEST)
    for source in ("screen", "camera"):
        setting.sight.show(source)
    assert sources_of(heard, setting.sight) == sources


def test_of_what_is_seen_where_nothing_is_shown_the_screen_is_meant():
    assert sources_of("What do you see?", Setting().sight) == ("screen",)


def test_a_screen_that_was_just_switched_on_is_not_called_unseen():
    sight = Setting().sight
    assert "I do not see your screen" in asyncio.run(about_sight("What is on my screen?", sight))
    sight.show("screen")
    assert "I have not read your screen yet" in asyncio.run(about_sight("What is on my screen?", sight))
