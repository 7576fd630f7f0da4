"""Where an answer is cut for the voice, however it arrives; and what is heard of it."""

import asyncio

import numpy as np
import pytest
from pipecat.frames.frames import (
    Frame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from serve.live.speech.phrases import Phrases
from serve.live.speech.services import small_talk
from tests.serve.live.speech.test_agent import SAMPLES_PER_LETTER, Conversation, Hum, Slow, happened

STORY = "Let me see, said the cat, and it looked at all the doors of the long corridor, one by one, until it was dark."


def a_third_of_real_time() -> Slow:
    return Slow(lambda sound: 0.3 * len(sound) / Hum.sample_rate)


class SlowLLM(FrameProcessor):
    """An answer of 100 letters a second, as fast as a small model on a busy core."""

    def __init__(self, answer: str) -> None:
        super().__init__()
        self.answer = answer

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            return await self.push_frame(frame, direction)
        await self.push_frame(LLMFullResponseStartFrame())
        for start in range(0, len(self.answer), 4):
            await asyncio.sleep(0.04)
            await self.push_frame(LLMTextFrame(self.answer[start : start + 4]))
        await self.push_frame(LLMFullResponseEndFrame())


async def pieces(phrases: Phrases, text: str, *, token_chars: int) -> list[str]:
    tokens = [text[start : start + token_chars] for start in range(0, len(text), token_chars)]
    found = [piece.text for token in tokens async for piece in phrases.aggregate(token)]
    rest = await phrases.flush()
    return [*found, rest.text] if rest else found


def cut(text: str, token_chars: int = 4) -> list[str]:
    return asyncio.run(pieces(Phrases(), text, token_chars=token_chars))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I am very well, thank you. And you?", ["I am very well,", "thank you.", "And you?"]),
        ("Of course; here it is.", ["Of course;", "here it is."]),
        ("The reason is this: it rains.", ["The reason is this:", "it rains."]),
        ("A picture -- a small one.", ["A picture --", "a small one."]),
        ('"Good morning," said the cat.', ['"Good morning,"', "said the cat."]),
        (
            "The red house at the corner is the one which I like best.",
            ["The red house at the corner is the one", "which I like best."],
        ),
    ],
    ids=["comma", "semicolon", "colon", "dash", "quotation", "no punctuation"],
)
def test_the_first_piece_ends_where_one_may_pause(text: str, expected: list[str]):
    assert cut(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "It costs 3,000 dollars.",
        "The train is at 10:30 sharp.",
        "Some small animals e.g., cats do.",
        "A well-known old word.",
        "An em dash\u2014without spaces.",
        "Dr. Smith is here.",
        "Hello, Mia.",
        "Come here and sit.",
    ],
)
def test_numbers_abbreviations_and_what_is_short_stay_whole(text: str):
    assert cut(text) == [text]


def test_a_clause_is_given_away_with_the_space_after_it():
    """Waiting for its sentence is what costs a visitor time."""

    async def run() -> None:
        phrases = Phrases()
        assert [piece.text async for piece in phrases.aggregate("I am very well, ")] == ["I am very well,"]

    asyncio.run(run())


def test_pieces_grow_until_they_are_sentences():
    """A clause that is shorter than what was said before it does not end a piece: it would leave a gap after it."""
    assert cut(f"{STORY} {STORY}") == [
        "Let me see,",
        "said the cat,",
        "and it looked at all the doors of the long corridor,",
        "one by one, until it was dark.",
        STORY,
    ]


@pytest.mark.parametrize("token_chars", [1, 2, 7, 1_000])
def test_nothing_is_lost_or_added_and_tokens_do_not_matter(token_chars: int):
    text = f"{STORY} It costs 3,000, i.e. a lot; or not?  Two spaces -- and a\nline. {STORY}"
    found = cut(text, token_chars)
    assert " ".join(found).split() == text.split() and found == cut(text, 3)


@pytest.mark.parametrize("ends", ["whole", "interrupted"])
def test_the_next_answer_begins_with_a_phrase_again(ends: str):
    async def run() -> list[str]:
        phrases = Phrases()
        if ends == "whole":
            await pieces(phrases, f"{STORY} ", token_chars=4)
        else:
            assert [piece async for piece in phrases.aggregate(f"{STORY} But")]
            await phrases.handle_interruption()
        return await pieces(phrases, "I am very well, thank you.", token_chars=4)

    assert asyncio.run(run()) == ["I am very well,", "thank you."]


def test_a_long_sentence_is_heard_from_its_first_clause_on_and_without_a_gap():
    """Whole it would be there after 1.1 s of words and 1.6 s of synthesis; nothing of it is lost or doubled."""
    answer = small_talk("How does this work?", name="Noa")

    async def script(conversation: Conversation) -> None:
        await conversation.agent.read("How does this work?")
        await conversation.play_until(lambda: conversation.states[-1:] == ["listening"])

    conversation = happened(script, SlowLLM(answer), a_third_of_real_time())
    loud = np.flatnonzero(np.concatenate(conversation.voice))
    assert loud[0] < 0.7 * Hum.sample_rate  # its words 0.16 s, their sound 0.17 s, what is rendered and waits 0.3 s
    assert len(loud) == (len(answer) - 2) * SAMPLES_PER_LETTER
    assert np.diff(loud).max() < 0.8 * Hum.sample_rate  # a breath; with the rest in one piece it is 1.9 s
    assert conversation.words == answer.split()
    assert conversation.memory == [("user", "How does this work?"), ("assistant", answer)]


def test_of_a_phrase_that_was_interrupted_the_rest_is_not_remembered():
    answer = "I hear you, I think of words, and then I speak."

    async def script(conversation: Conversation) -> None:
        await conversation.agent.read("How does this work?")
        await conversation.play_until(lambda: len(conversation.words) >= 5)
        await conversation.agent.worker.queue_frame(InterruptionFrame())
        await conversation.play(0.5)
        await conversation.agent.read("And?")
        await conversation.play_until(lambda: len(conversation.memory) == 4)

    conversation = happened(script, SlowLLM(answer), a_third_of_real_time())
    _, (_, remembered), _, (_, again) = conversation.memory
    assert answer.startswith(remembered) and 5 <= len(remembered.split()) < 8
    assert again == answer
