"""The pieces of an answer in which a voice gets it."""

import re
from collections.abc import AsyncIterator

from pipecat.utils.text.base_text_aggregator import Aggregation, TextType
from pipecat.utils.text.simple_text_aggregator import SimpleTextAggregator

CLAUSE_CHARS = 10  # two or three words: less sounds chopped
PHRASE_CHARS = 24  # without punctuation a pause is worth hearing only in a long sentence
# A comma, semicolon, colon or dash that ends a word, perhaps in a quotation; not the comma of "e.g., this".
CLAUSE_END = re.compile(r"(?<!\.)[,;:\u2013\u2014]['\")\]\u2019\u201d]*$|\s-{1,2}$")
# Words before which one may take a breath.
OPENERS = frozenset(
    "and but or so because since although while when where which who that if unless until before after than as "
    "with without about from for in on at by into through".split()
)


class Phrases(SimpleTextAggregator):
    """Sentences, but first phrases: a longer piece is cut as soon as it has the length of what was said before it.

    While one piece is heard the next is synthesised, in less than half the time that it lasts on two busy cores. So
    pieces that double leave no gap, and after two or three of them come whole sentences. A cut is always at a space, so
    that the pieces joined by spaces are the text.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said_chars = 0  # of this answer, in the pieces before

    async def aggregate(self, text: str) -> AsyncIterator[Aggregation]:
        for char in text:
            async for sentence in super().aggregate(char):
                self._said_chars += len(sentence.text)
                yield sentence
            if phrase := self._cut():
                self._said_chars += len(phrase)
                yield Aggregation(phrase, TextType.SENTENCE)

    async def flush(self) -> Aggregation | None:
        """The end of the answer."""
        rest = await super().flush()
        self._said_chars = 0
        return rest

    async def handle_interruption(self) -> None:
        await super().handle_interruption()
        self._said_chars = 0

    def _cut(self) -> str | None:
        """The phrase that a space has just ended, taken from what is pending."""
        if not self._text[-1:].isspace():
            return None
        *words, last = self._text.split() or [""]
        if CLAUSE_END.search(self._text.rstrip()) and self._long_enough([*words, last], CLAUSE_CHARS, self._said_chars):
            self._text = ""
            return " ".join([*words, last])
        if last.lower() in OPENERS and self._long_enough(words, PHRASE_CHARS, 3 * self._said_chars):
            self._text = f"{last} "
            return " ".join(words)
        return None

    def _long_enough(self, words: list[str], min_chars: int, said_chars: int) -> bool:
        return len(" ".join(words)) >= max(min_chars, said_chars)


async def first_phrase(texts: AsyncIterator[str]) -> str:
    """Of an answer that comes in parts, as soon as they are enough; empty where it has none."""
    phrases = Phrases()
    async for text in texts:
        async for phrase in phrases.aggregate(text):
            return phrase.text
    rest = await phrases.flush()
    return rest.text if rest else ""
