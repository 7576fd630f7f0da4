"""Of what a model writes, exactly what a person would say reaches the voice, in whatever pieces it comes."""

import random

import pytest

from serve.live.speech.spoken import SpokenText
from serve.live.speech.thoughts import ThoughtMarkup

SAID = {
    "Hello there. How are you?": "Hello there. How are you?",
    # Thoughts
    "<think>He greets me.\n\nBe kind.</think>\n\nHi, I am Noa.": "Hi, I am Noa.",
    "The user wants the time.\n</think>\n\nIt is noon.": "It is noon.",
    "<thinking>a < b</thinking>Yes.": "Yes.",
    "<|channel|>analysis<|message|>Hm.<|end|><|channel|>final<|message|>Sure.<|return|>": "Sure.",
    "Well <think>no</think> yes.": "Well yes.",
    "<think>I never come to an end": "",
    "I think <the thing> is fine.": "I think is fine.",
    # Lines
    "# Plan\n\nWe go **now**, _really_.": "Plan. We go now, really.",
    "You need:\n- eggs\n- *fresh* milk\n\n1. Boil it\n2) Eat": "You need: eggs. fresh milk. Boil it. Eat",
    "> quoted\n> text\nme": "quoted. text. me",
    "One\n---\nTwo\n***\n": "One. Two. ",
    "- [x] done\n- [ ] to do\n": "done. to do",
    "First line\nsame sentence.\nNext": "First line same sentence. Next",
    "| Day | Sun |\n|:--|--:|\n| Mon | yes |\nSo.": "Day, Sun. Mon, yes. So.",
    "Run this:\n```python\nprint('# no')\n```\nDone.": "Run this: Done.",
    "~~~\ncode without an end": "",
    # Words
    "Use `pip install` or snake_case.": "Use pip install or snake case.",
    "See [the docs](https://x.org/a_b?c=d) or ![a cat](c.png).": "See the docs or a cat.",
    "Go to https://www.example.org/a/b.html?q=1. Or <https://gwm.dev/x>!": "Go to example.org. Or gwm.dev!",
    "It is true[1], they say [^2].": "It is true, they say .",
    "<b>Bold</b> &amp; <br/>new<script>if (a<b) {}</script> line": "Bold & new line",
    "Great \U0001f600! \U0001f44d\U0001f3fd Bye \u2764\ufe0f :)": "Great ! Bye ",
    "It is 20 \u00b0C, 50 % and caf\u00e9.": "It is 20 \u00b0C, 50 % and caf\u00e9.",
    "You are #1, about ~5 #happy": "You are number 1, about about 5 happy",
    # Formulas and money
    "It costs $5, or $6 for two.": "It costs $5, or $6 for two.",
    "So $x^2 + 1 = 5$, and \\(\\frac{a}{b}\\).": "So x squared plus 1 equals 5, and a over b.",
    "$$\\sqrt{2} \\approx 1.4$$ and 2 * 3 and 4*5": "the square root of 2 is about 1.4 and 2 times 3 and 4 times 5",
    # What looks like a construct and is none
    "a < b, c > d, [open, `tick, 5$ and *": "a < b, c > d, [open, tick, 5$ and ",
    "2024 was good.\n-5 degrees.": "2024 was good. -5 degrees.",
}


def said(*parts: str, markup: ThoughtMarkup | None = None, complete: bool = True) -> str:
    spoken = SpokenText(markup or ThoughtMarkup())
    return "".join(map(spoken.feed, parts)) + spoken.end(complete=complete)


@pytest.mark.parametrize(("written", "expected"), SAID.items(), ids=range(len(SAID)))
def test_a_person_would_say_it_like_this(written: str, expected: str):
    assert said(written) == expected


@pytest.mark.parametrize("opens", [None, True])
def test_how_the_text_is_cut_into_deltas_does_not_change_what_is_said(opens: bool | None):
    rng = random.Random(0)
    alphabet = [*"ab1 \n*_`#[]()$<>|-.~\\/:!", "<think>", "</think>", "```", "https://a.b/c", "[x](y)", "\U0001f600"]
    texts = [*SAID, *("".join(rng.choices(alphabet, k=40)) for _ in range(60))]
    for text in texts:
        whole = said(text, markup=ThoughtMarkup(opens))
        assert said(*text, markup=ThoughtMarkup(opens)) == whole, text
        cuts = sorted(rng.sample(range(len(text) + 1), k=min(5, len(text))))
        parts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, None])]
        assert said(*parts, markup=ThoughtMarkup(opens)) == whole, (parts, whole)


def test_a_word_is_said_as_soon_as_it_is_whole():
    spoken = SpokenText(ThoughtMarkup(has_opening_tag=True))
    assert [spoken.feed(part) for part in ("Hel", "lo, ", "my na", "me ")] == ["", "Hello, ", "my ", "name "]


def test_a_model_whose_thoughts_have_no_opening_tag_is_known_by_its_first_answer():
    """Its later answers are held back until the thoughts end; one that was cut off before that says nothing."""
    markup = ThoughtMarkup()
    assert said("Hm.</think>Yes.", markup=markup) == "Yes." and markup.has_opening_tag is False
    assert said("Hm, long thoughts", markup=markup, complete=False) == ""
    assert said("No thoughts at all.", markup=markup) == "No thoughts at all." and markup.has_opening_tag is True


def test_what_is_held_back_is_said_once_a_model_is_known_to_answer_at_once():
    markup, spoken = ThoughtMarkup(), SpokenText(ThoughtMarkup())
    assert spoken.feed("Hello there, ") == "" and spoken.end() == "Hello there, "
    said("Hello.", markup=markup)
    assert SpokenText(markup).feed("Hello there, ") == "Hello there, "
