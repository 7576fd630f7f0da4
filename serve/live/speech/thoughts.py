"""What a language model thinks before it answers, taken out of its stream of text: nobody may hear or read it."""

import re
from dataclasses import dataclass

NAMES = ("think", "thinking", "thought", "thoughts", "reasoning", "reflection", "scratchpad", "analysis")
OPENING = (
    *(f"<{name}>" for name in NAMES),
    "<|begin_of_thought|>",
    "<seed:think>",
    "\u25c1think\u25b7",  # Kimi
    "<|channel|>analysis<|message|>",  # gpt-oss
    "<|channel|>commentary<|message|>",
)
CLOSING = (
    *(f"</{name}>" for name in NAMES),
    "<|end_of_thought|>",
    "</seed:think>",
    "\u25c1/think\u25b7",
    "<|channel|>final<|message|>",
)
TAGS = OPENING + CLOSING
TAG = re.compile("|".join(map(re.escape, TAGS)), re.IGNORECASE)
CLOSING_TAG = re.compile("|".join(map(re.escape, CLOSING)), re.IGNORECASE)
LONGEST = max(map(len, TAGS))


@dataclass(slots=True)
class ThoughtMarkup:
    """How a model marks its thoughts, as far as its answers have shown (None: not yet); shared by all sessions."""

    has_opening_tag: bool | None = None  # False: its answers begin with thoughts, and only their end is marked


class Thoughts:
    """Text goes in by `feed` in pieces of any length, and comes out without thoughts; `end` gives what is left.

    A closing tag without an opening one means that everything before it was a thought (some servers give the opening
    tag to the model, not to its reader). So text is held back until a tag or the end of the answer decides, unless the
    markup is known. What comes out in all does not depend on how the text was cut into pieces.
    """

    def __init__(self, markup: ThoughtMarkup) -> None:
        self.markup = markup
        self._text = ""  # not decided yet
        self._thinking = False
        self._holding = markup.has_opening_tag is not True

    def feed(self, text: str) -> str:
        self._text += text
        said = []
        while found := (CLOSING_TAG if self._thinking else TAG).search(self._text):
            before, self._text = self._text[: found.start()], self._text[found.end() :]
            closing = CLOSING_TAG.fullmatch(found.group()) is not None
            if closing and not self._thinking:
                self.markup.has_opening_tag = False
                said += [] if self._holding else [before]
            elif not self._thinking:
                self.markup.has_opening_tag = True
                said.append(before)
            self._thinking, self._holding = not closing, False
        if not self._holding:
            rest = _beginning_of_a_tag(self._text)
            said.append("" if self._thinking else self._text[: len(self._text) - len(rest)])
            self._text = rest
        return "".join(said)

    def end(self, *, complete: bool) -> str:
        """The end of an answer.

        complete: the model stopped by itself. One that was cut off while it was held back, and whose thoughts are known
            to have no opening tag, has not come to its answer.
        """
        cut_off = self.markup.has_opening_tag is False and self._holding and not complete
        rest, thinking = self._text, self._thinking or cut_off
        if self._holding and complete:
            self.markup.has_opening_tag = True  # nothing was held back for a reason
        self._text, self._thinking, self._holding = "", False, self.markup.has_opening_tag is not True
        return "" if thinking else rest


def _beginning_of_a_tag(text: str) -> str:
    """The end of a text that may be the beginning of a tag."""
    for start in range(max(0, len(text) - LONGEST), len(text)):
        if text[start] in "<\u25c1" and any(tag.startswith(text[start:].lower()) for tag in TAGS):
            return text[start:]
    return ""
