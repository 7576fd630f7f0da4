"""Prompts, actions and rewinds that a client sends while it watches: {"type": "prompt.set", "text": ...}, {"type":
"action.set", "action": {name: number} | [numbers] | null} or {"type": "stream.rewind", "chunks": n}.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from gwm.contract import Contract
from serve.actions import LARGEST

PROMPT_CHARS = 1_500
MOST_NUMBERS = 256  # of an action


class ChangeRefusedError(ValueError):
    """The engine cannot do this, and goes on as before."""


@dataclass(frozen=True, slots=True)
class SetPrompt:
    """A text, or its tokens on their way to the engine."""

    text: str
    tokens: Float[np.ndarray, "s t"] | None = None


@dataclass(frozen=True, slots=True)
class Act:
    """Numbers of the actions by name or in their order; None: nobody acts."""

    action: dict[str, float | int] | list[float | int] | None


@dataclass(frozen=True, slots=True)
class Rewind:
    chunks: int


Change = SetPrompt | Act | Rewind


@dataclass(frozen=True, slots=True)
class Controls:
    """What of a stream a client can change, so that it offers nothing else."""

    prompt: bool
    actions: tuple[str, ...]  # the names that `Act` knows
    rewind_chunks: int  # at most
    chunk_s: float

    @classmethod
    def of(cls, contract: Contract, *, rewind_chunks: int) -> "Controls":
        prompt, names = contract.dit.width("text") > 0, contract.dit.names("action")
        return cls(prompt, names, rewind_chunks, contract.chunk_ms / 1000)


def read_change(message: dict[str, Any]) -> Change | None:
    """The change that a message asks for; None: it is of another type.

    Raises:
        ValueError: a field is missing, of another kind, too long, or no finite number.
    """
    match message.get("type"):
        case "prompt.set":
            text = message.get("text")
            if not (isinstance(text, str) and 0 < len(text.strip()) <= PROMPT_CHARS):
                raise ValueError(f"text must be text of 1 to {PROMPT_CHARS} characters.")
            return SetPrompt(text.strip())
        case "action.set":
            if "action" not in message:
                raise ValueError("action must be given: numbers by name, a list of numbers, or null.")
            return Act(_action(message["action"]))
        case "stream.rewind":
            chunks = message.get("chunks")
            if isinstance(chunks, bool) or not isinstance(chunks, int) or chunks < 1:
                raise ValueError(f"chunks={chunks!r} must be a whole number of at least 1.")
            return Rewind(chunks)
        case _:
            return None


def _action(action: Any) -> dict[str, float | int] | list[float | int] | None:
    if action is None:
        return None
    if not isinstance(action, dict | list):
        raise ValueError("action must be numbers by name, a list of numbers, or null.")
    values = list(action.values()) if isinstance(action, dict) else action
    if len(values) > MOST_NUMBERS:
        raise ValueError(f"action has {len(values)} numbers, must have at most {MOST_NUMBERS}.")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
            raise ValueError(f"action has {str(value)[:40]}, must have finite numbers in [-{LARGEST:g}, {LARGEST:g}].")
    return action
