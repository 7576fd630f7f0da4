"""Calls of tools by rules, where no language model decides: a question calls the tool whose words it shares."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from serve.live.speech.knowledge import STEM_CHARS, content_words
from serve.live.speech.tools import Tool

SHOWN = "I have put it on your page."
SPOKEN_CHARS = 300  # of a result
NUMBER_WORDS: Sequence[str] = "zero one two three four five six seven eight nine ten eleven twelve".split()
NUMBER = re.compile(rf"(?<![\w.])-?\d+(?:\.\d+)?(?!\w)|\b(?:{'|'.join(NUMBER_WORDS)})\b", re.IGNORECASE)
NO = re.compile(r"\b(?:no|not|off|stop|without|disable)\b", re.IGNORECASE)
REFUSAL = re.compile(r"\b(?:do not|don't|never)\b", re.IGNORECASE)
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|[_\W]+")


def chosen_call(heard: str, tools: Sequence[Tool]) -> tuple[Tool, dict[str, Any]] | None:
    """The tool of whose name a question has every word, or one of it and two of its description, with its arguments.

    Arguments are read off the question: an `enum` by the value that it names, numbers in their order, a boolean as true
    unless the question says no or off, the first text as the words that are not the tool's own. None: there is no such
    tool, an argument that it needs is not in the question, or the question says not to.
    """
    if REFUSAL.search(heard):
        return None
    asked = _stems(content_words(heard))
    best: tuple[int, Tool, dict[str, Any]] | None = None
    for tool in tools:
        name, about = _stems(content_words(_spaced(tool.name))), _stems(content_words(tool.description))
        shared = len(asked & (name | about))
        if not (name and name <= asked) and not (name & asked and shared >= 3):
            continue
        arguments = _arguments(heard, tool, name | about)
        if arguments is not None and (best is None or shared > best[0]):
            best = shared, tool, arguments
    return None if best is None else best[1:]


def spoken_result(tool: Tool, outcome: dict[str, Any]) -> str:
    """What a call gave, as a sentence."""
    if "error" in outcome:
        return f"I could not do that. {outcome['error']}"
    result = outcome["result"]
    if isinstance(result, dict) and result.get("status") == "event_sent":
        return SHOWN
    words = ", ".join(_said(result)) or "nothing"
    return f"{_spaced(tool.name).capitalize()}: {words[:SPOKEN_CHARS]}."


def _said(result: Any, name: str = "") -> Iterable[str]:
    """Values with their names, in the order of the result."""
    if isinstance(result, dict):
        for key, value in result.items():
            yield from _said(value, _spaced(str(key)))
    elif isinstance(result, list):
        for value in result:
            yield from _said(value, name)
    elif result is not None:
        text = result if isinstance(result, str) else json.dumps(result)
        yield f"{name} {text}".strip()


def _arguments(heard: str, tool: Tool, own: set[str]) -> dict[str, Any] | None:
    found, needed, asked = dict[str, Any](), tool.parameters.get("required", []), _stems(content_words(heard))
    numbers = iter(NUMBER.findall(heard))
    texts = iter([heard])  # nothing says which words belong to a second one
    for name, schema in tool.parameters.get("properties", {}).items():
        named = _stems(content_words(_spaced(name)))
        if schema.get("type") == "boolean" and name not in needed and not named & asked:
            continue  # nobody spoke of it
        value = _value(heard, schema, own | named, numbers, texts)
        if value is not None:
            found[name] = value
        elif name in needed:
            return None
    return found


def _value(heard: str, schema: dict[str, Any], own: set[str], numbers: Iterator[str], texts: Iterator[str]) -> Any:
    kind, choices = schema.get("type"), schema.get("enum")
    if choices:
        return next((each for each in choices if _names(heard, str(each))), None)
    if kind in ("integer", "number"):
        return _number(next(numbers, None), whole=kind == "integer")
    if kind == "boolean":
        return NO.search(heard) is None
    if kind != "string":
        return None
    words = [word for word in content_words(next(texts, "")) if word[:STEM_CHARS] not in own]
    return " ".join(words) or None


def _names(heard: str, choice: str) -> bool:
    """Whole words alone: "shall" is no hall."""
    return any(re.search(rf"\b{re.escape(form)}\b", heard, re.IGNORECASE) for form in (choice, _spaced(choice)) if form)


def _number(text: str | None, *, whole: bool) -> float | int | None:
    if text is None:
        return None
    number = NUMBER_WORDS.index(text.lower()) if text.lower() in NUMBER_WORDS else float(text)
    if whole:
        return int(number) if number == int(number) else None
    return number


def _spaced(name: str) -> str:
    return " ".join(part for part in CAMEL.split(name) if part).lower()


def _stems(words: Iterable[str]) -> set[str]:
    return {word[:STEM_CHARS] for word in words}
