"""What a question asks of what the visitor shows, by its words: where no language model calls a tool for it."""

import re

from serve.live.speech.knowledge import Passage, best_sentence
from serve.live.vision.sight import Sight, UnseenError

SCREEN = re.compile(r"\b(my (screen|window|page|tab)|on (the|this) screen|read (this|that|it))\b", re.IGNORECASE)
FACE = re.compile(r"\b(my (camera|face)|see me|look at me|do i (look|seem))\b", re.IGNORECASE)
ANYTHING = re.compile(r"\b((do|can) you see|look at (this|that|it)|am i showing)\b", re.IGNORECASE)
SPOKEN_CHARS = 200  # of a screen


def sources_of(heard: str, sight: Sight) -> tuple[str, ...]:
    """The sources that a question is about; empty where it is about none."""
    if FACE.search(heard):
        return ("camera",)
    if SCREEN.search(heard):
        return ("screen",)
    return (sight.available or ("screen",)) if ANYTHING.search(heard) else ()


async def look_where_asked(heard: str, sight: Sight) -> dict[str, str]:
    """Look at what a question is about: of each source why it is not seen, empty where it is."""
    unseen = {}
    for source in sources_of(heard, sight):
        unseen[source] = ""
        try:
            await sight.look(source)
        except UnseenError as error:
            unseen[source] = str(error)
    return unseen


async def about_sight(heard: str, sight: Sight) -> str:
    """What a question about the visitor's screen or face is answered; empty where it is about neither."""
    unseen = await look_where_asked(heard, sight)
    words = {each.source: each.text for each in sight.sightings()}
    return " ".join(_said(source, why, words.get(source), heard, sight) for source, why in unseen.items())


def _said(source: str, why: str, words: str | None, heard: str, sight: Sight) -> str:
    if words is None:
        if source in sight.available and source not in sight.shown:
            return f"I could not look at your {source}. {why}"
        if source in sight.shown or source in sight.switched_on:
            return f"I have not read your {source} yet. Ask again in a moment."
        return f"I do not see your {source}. You can switch it on below."
    if source == "camera":
        return words
    if not words:
        return "I can read nothing on your screen."
    line = best_sentence([Passage("", words)], SCREEN.sub("", ANYTHING.sub("", heard)))
    text = line.text if line else words.replace("\n", ", ")
    return f"On your screen I read: {text[:SPOKEN_CHARS]}."
