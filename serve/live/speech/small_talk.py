"""Replies by rules, for servers without a language model and for tests."""

import re

Rule = tuple[re.Pattern[str], str]


def _rule(pattern: str, reply: str) -> Rule:
    return re.compile(pattern, re.IGNORECASE), reply


RULES: tuple[Rule, ...] = (
    _rule(r"\b(hello|hi|hey|good (morning|evening|afternoon))\b", "Hello! It is good to see you. How are you today?"),
    _rule(r"\bhow are you\b", "I am very well, thank you for asking. And you?"),
    _rule(r"\b(your name|who are you)\b", "My name is {name}. I am a talking picture, made one chunk at a time."),
    _rule(
        r"\b(story|tell me (more|about|something))\b",
        "Let me tell you a story. Once there was a picture on a wall that looked at everyone who passed by. One day "
        "somebody stopped and asked it a question. The picture thought for a moment, and then it opened its mouth and "
        "answered. Since that day it has never been alone again.",
    ),
    _rule(
        r"\bhow (do|does) (you|it|this) work\b",
        "I hear you, I think of words, and every sixth of a second a small "
        "network draws the next four pictures of my face.",
    ),
    _rule(r"\b(weather|rain|sun)\b", "I cannot look out of the window from in here. What is it like where you are?"),
    _rule(r"\b(bye|goodbye|see you)\b", "Goodbye! Come back whenever you like."),
    _rule(r"\b(thanks|thank you)\b", "You are welcome."),
)
NOTHING = "I did not quite hear that. Could you say it again?"
OTHERWISE = "You said: {heard} I find that interesting. Tell me more."


def reply(heard: str, *, name: str) -> str:
    """What the character called `name` answers."""
    heard = heard.strip()
    if not heard:
        return NOTHING
    if heard[-1] not in ".!?":
        heard += "."
    answer = next((text for pattern, text in RULES if pattern.search(heard)), OTHERWISE)
    return answer.format(name=name, heard=heard)
