"""Messages by which a client changes its stream: {"type": "prompt.set", "text": ...}, {"type": "action.set", "action":
{name: number | [numbers] | null} | null}, {"type": "keyframe.set", "image": ..., "in_s": seconds}, {"type":
"stream.rewind", "chunks": n} or {"type": "stream.reset"}.
`SessionControls` says which of them a model can follow."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from gwm.condition.spec import LIMIT, Control
from gwm.contract import Contract

PROMPT_CHARS = 1_500
DATA_URL, IMAGE_CHARS, KEY_CHARS = "data:image/", 900_000, 64  # of a picture in a message, and of an upload's key
MAX_AHEAD_S = 600.0  # of a keyframe: as far as anybody plans
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
class SetKeyframe:
    """A picture that the stream goes towards and shows `in_s` seconds after the next chunk begins: a `data:` URL or the
    key of an upload, or the picture on its way to the engine."""

    image: str
    in_s: float
    picture: UInt8[np.ndarray, "h w 3"] | None = None


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


Change = SetPrompt | Act | SetKeyframe | Redo | Rewind | Reset


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
        case "keyframe.set":
            return _keyframe(message.get("image"), message.get("in_s"))
        case "stream.rewind":
            chunks = message.get("chunks")
            if isinstance(chunks, bool) or not isinstance(chunks, int) or chunks < 1:
                raise ValueError(f"chunks={chunks!r} must be a whole number of at least 1.")
            return Rewind(chunks)
        case "stream.reset":
            return Reset()
        case _:
            return None


def _keyframe(image: Any, in_s: Any) -> SetKeyframe:
    most = IMAGE_CHARS if isinstance(image, str) and image.startswith(DATA_URL) else KEY_CHARS
    if not (isinstance(image, str) and 0 < len(image) <= most):
        raise ValueError(
            f"image must be the key of an upload (POST /v1/images), or a picture as {DATA_URL}jpeg;base64,... of at "
            f"most {IMAGE_CHARS} characters."
        )
    if isinstance(in_s, bool) or not isinstance(in_s, int | float) or not 0 <= in_s <= MAX_AHEAD_S:
        raise ValueError(f"in_s={str(in_s)[:40]} must be seconds from now on, in [0, {MAX_AHEAD_S:g}].")
    return SetKeyframe(image, float(in_s))


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
    keyframes: bool = False  # whether it goes towards pictures

    @classmethod
    def of(cls, contract: Contract, *, rewind_chunks: int) -> "SessionControls":
        prompt, code = contract.dit.width("text") > 0, contract.codes
        actions = tuple(control for control in contract.controls if control not in code)
        keyframes = contract.dit.keyframes is not None
        return cls(prompt, actions, code, rewind_chunks, contract.chunk_ms / 1000, contract.takes_sound, keyframes)
