"""Messages by which a client changes its stream: {"type": "prompt.set", "text": ...}, {"type": "action.set", "action":
{name: number | [numbers] | null} | null}, {"type": "stream.rewind", "chunks": n} or {"type": "stream.reset"}.
`SessionControls` says which of them a model can follow."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from gwm.condition.spec import LIMIT, Control
from gwm.contract import Contract

PROMPT_CHARS = 1_500
MAX_NUMBERS = 256  # of a message


class ChangeRefusedError(ValueError):
    """The engine cannot do this, and goes on as before."""


@dataclass(frozen=True, slots=True)
class SetPrompt:
    """A text, or its tokens on their way to the engine."""

    text: str
    tokens: Float[np.ndarray, "s t"] | None = None


@dataclass(frozen=True, slots=True)
class Act:
    """Numbers by name, as `serve.acts.Acts.set` takes them: None of one or of all releases them."""

    action: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Redo:
    """Make the latest chunk again, with numbers from its pixel frame `frame` on; no client sends it."""

    action: dict[str, float | int]
    frame: int


@dataclass(frozen=True, slots=True)
class Rewind:
    chunks: int


@dataclass(frozen=True, slots=True)
class Reset:
    """Begin again at the first picture; prompt and numbers stay."""


Change = SetPrompt | Act | Redo | Rewind | Reset


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
                raise ValueError("action must be given: numbers by name, or null.")
            return Act(_numbers(message["action"]))
        case "stream.rewind":
            chunks = message.get("chunks")
            if isinstance(chunks, bool) or not isinstance(chunks, int) or chunks < 1:
                raise ValueError(f"chunks={chunks!r} must be a whole number of at least 1.")
            return Rewind(chunks)
        case "stream.reset":
            return Reset()
        case _:
            return None


def _numbers(action: Any) -> dict[str, Any] | None:
    """What may be sent to the engine, which knows names and limits."""
    if action is not None and not isinstance(action, dict):
        raise ValueError("action must be numbers by name, or null.")
    values = [one for value in (action or {}).values() for one in (value if isinstance(value, list) else [value])]
    if len(values) > MAX_NUMBERS:
        raise ValueError(f"action has {len(values)} numbers, must have at most {MAX_NUMBERS}.")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float | None) or not abs(value or 0) <= LIMIT:
            raise ValueError(f"action has {str(value)[:40]}, must have finite numbers in [-{LIMIT:g}, {LIMIT:g}].")
    return action


@dataclass(frozen=True, slots=True)
class SessionControls:
    """The changes (`serve.live.avatar.changes`) that this model can follow, so that a client offers nothing else."""

    prompt: bool
    actions: tuple[Control, ...]  # numbers that `Act` sets: of conditions,
    code: tuple[Control, ...]  # and of a motion code
    rewind_chunks: int  # at most
    chunk_s: float
    sound: bool = True  # whether it speaks and listens

    @classmethod
    def of(cls, contract: Contract, *, rewind_chunks: int) -> "SessionControls":
        prompt, code = contract.dit.width("text") > 0, contract.codes
        actions = tuple(control for control in contract.controls if control not in code)
        return cls(prompt, actions, code, rewind_chunks, contract.chunk_ms / 1000, contract.takes_sound)
