"""Numbers that callers set by name in a stream: those of conditions, such as keys of a world or a mood, and those of
motion codes, such as an open jaw, in place of what the model generates; and from when a change holds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gwm.autoencoders.motion.code import standardise, to_latents
from gwm.blinks import EYELIDS, blinking
from gwm.condition.spec import Control
from gwm.contract import Contract
from gwm.transfer import to_device


@dataclass(frozen=True)
class Applied:
    """The chunk and media time from which a change holds."""

    chunk: int  # the first that is generated under it, counted from the start of the stream
    media_s: float  # when that chunk begins


def applied_at(contract: Contract, at_s: float) -> Applied:
    """The first chunk that does not begin before `at_s`: a change never comes early."""
    chunk = math.ceil(at_s * contract.fps / contract.chunk_pixel_frames - 1e-6)
    return Applied(chunk, chunk * contract.chunk_ms / 1000)


MAX_FRAMES = 240  # of a number that is given frame by frame
GLIDE_FRAMES = 4  # pixel frames in which a code's number goes to another value, and those in which it returns to the
RETURN_FRAMES = 8  # model's own: each a step of an equal part, so that nothing jumps
Value = float | int | Sequence[float | int]
Numbers = Mapping[str, Value | None]


ONES = np.ones(1, np.float32)


@dataclass(frozen=True, slots=True)
class Course:
    """Values of a number from a pixel frame of the stream on; the last value and share stay."""

    first: int
    values: Float[np.ndarray, " n"]
    shares: Float[np.ndarray, " m"] = field(default_factory=lambda: ONES)  # 1: this value; 0: the model's own

    def of(self, first: int, num_frames: int) -> tuple[Float[np.ndarray, " f"], Float[np.ndarray, " f"]]:
        """Values and shares."""
        place = (np.arange(first, first + num_frames) - self.first).clip(0)
        return self.values[place.clip(max=len(self.values) - 1)], self.shares[place.clip(max=len(self.shares) - 1)]

    def gliding(self, first: int, value: float) -> "Course":
        """From the present value to another one, in equal steps."""
        now, share = (float(x[0]) for x in self.of(first - 1, 1))
        return Course(first, _steps(now if share else value, value, GLIDE_FRAMES), _steps(share, 1.0, GLIDE_FRAMES))

    def returning(self, first: int) -> "Course":
        """From the present value back to the model's own, in equal steps."""
        now, share = self.of(first - 1, 1)
        return Course(first, now, _steps(float(share[0]), 0.0, RETURN_FRAMES))


NOT_SET = Course(0, np.zeros(1, np.float32), np.zeros(1, np.float32))


class Acts:
    """Numbers by name, each from its chunk on until it is changed or released.

    Eyelids that are among the model's conditions close by themselves (`gwm.blinks`) while nobody sets them.
    """

    def __init__(self, contract: Contract, *, like: Tensor) -> None:
        """like: a tensor whose device and precision conditions have."""
        self.contract, self.like = contract, like
        self.codes = {control.name for control in contract.codes}
        self.start(seed=0)

    def start(self, *, seed: int) -> None:
        """A new stream, in which nothing is set."""
        self.seed = seed
        self.courses = dict[str, Course]()
        self._later = dict[int, list[Numbers | None]]()

    def set(self, numbers: Numbers | None, *, chunk: int, now: int) -> None:
        """From `chunk` on, which is the next one, `now`, or a later one: a number, or one for each pixel frame in order
        of which the last stays; None: what it was before anybody set it. None in place of all: of all of them.

        Raises:
            ValueError: the model does not have a name, or a value is outside of its limits.
        """
        check_numbers(numbers or {}, self.contract)
        if chunk > now:
            self._later.setdefault(chunk, []).append(numbers)
        else:
            self._apply(numbers, chunk)

    def set_within(self, numbers: Mapping[str, float | int], *, chunk: int, frame: int) -> None:
        """Numbers from pixel frame `frame` of `chunk` on, which is the next one; before it what holds by now.

        Raises:
            ValueError: as `set`, or a number is of a motion code, which glides to its value.
        """
        check_numbers(numbers, self.contract)
        if codes := sorted(self.codes & numbers.keys()):
            raise ValueError(f"{', '.join(codes)} must be set from a chunk's first frame on: codes glide.")
        first = chunk * self.contract.chunk_pixel_frames
        for name, value in numbers.items():
            before, _ = self.courses.get(name, NOT_SET).of(first, frame)
            self.courses[name] = Course(first, np.append(before, np.float32(value)))

    def reach(self, chunk: int) -> None:
        """The next chunk that is taken is this one: what was set for it holds from now on."""
        for numbers in self._later.pop(chunk, []):
            self._apply(numbers, chunk)

    def rewind(self, chunk: int) -> None:
        """The next chunk that is taken is this one again; what is set by now holds from there on."""
        first = chunk * self.contract.chunk_pixel_frames
        for name, course in self.courses.items():
            self.courses[name] = replace(course, first=min(course.first, first))

    def override(self, chunk: int) -> dict[str, Float[Tensor, "1 f c h w"]]:
        """What of a chunk's latents is decided here, as `Conditions.override`; nothing where they are no codes."""
        if not self.codes:
            return {}
        frames = self.contract.chunk_pixel_frames
        courses = [self.courses.get(control.name, NOT_SET) for control in self.contract.codes]
        values, shares = np.stack([course.of(chunk * frames, frames) for course in courses], axis=-1)[:, None]
        code = standardise(*torch.from_numpy(values).split((52, 3, 2), dim=-1))
        made = {"share": to_latents(torch.from_numpy(shares)), "value": to_latents(code)}
        return {name: to_device(x, self.like.device, self.like.dtype) for name, x in made.items()}

    def conditions(self, chunk: int) -> dict[str, Float[Tensor, "1 f k"]]:
        """Those of a chunk that callers may set."""
        found = {}
        for spec in self.contract.dit.of_rate("frame"):
            if controls := self.contract.controls_of(spec.name):
                rows = torch.from_numpy(self._rows(controls, chunk))
                given = rows.reshape(1, self.contract.pattern.chunk_frames, -1)
                found[spec.name] = to_device(given, self.like.device, self.like.dtype)
        return found

    def _rows(self, controls: Sequence[Control], chunk: int) -> Float[np.ndarray, "t k"]:
        frames = self.contract.chunk_pixel_frames
        acted = any(control.name in self.courses for control in controls)
        rows = np.zeros((frames, len(controls)), np.float32)
        for column, control in zip(rows.T, controls, strict=True):
            if control.name in self.courses:
                column[:] = self.courses[control.name].of(chunk * frames, frames)[0]
            elif control.name in EYELIDS:
                column[:] = blinking(self.seed, chunk * frames, frames)
            elif acted:
                column[:] = control.default
        return rows

    def _apply(self, numbers: Numbers | None, chunk: int) -> None:
        for name, value in (dict.fromkeys(self.courses) if numbers is None else numbers).items():
            first = chunk * self.contract.chunk_pixel_frames
            course = self.courses.pop(name, NOT_SET)
            if isinstance(value, Sequence):
                self.courses[name] = Course(first, np.array(value, np.float32))
            elif name in self.codes:
                self.courses[name] = course.returning(first) if value is None else course.gliding(first, float(value))
            elif value is not None:
                self.courses[name] = Course(first, np.array([value], np.float32))


def _steps(start: float, end: float, count: int) -> Float[np.ndarray, " n"]:
    """Equal steps from the one after `start` to `end`."""
    return np.linspace(start, end, count + 1, dtype=np.float32)[1:]


@dataclass(frozen=True)
class TimedNumbers:
    """Numbers, and the media time from which they should hold."""

    at_s: float
    numbers: Numbers

    def check(self, contract: Contract, *, num_frames: int) -> None:
        """Refuse what this model cannot be given, before anything is computed.

        Raises:
            ValueError: as `Acts.set`, or the time is not in the clip.
        """
        check_numbers(self.numbers, contract)
        begins = applied_at(contract, self.at_s)
        if not 0 <= begins.media_s * contract.fps < num_frames:
            raise ValueError(
                f"act at={self.at_s:g} begins with the chunk at {begins.media_s:.2f} s, must begin before the clip "
                f"ends at {num_frames / contract.fps:.2f} s. Raise seconds, or take an earlier time."
            )


def check_numbers(numbers: Numbers, contract: Contract) -> None:
    """Check names and values of actions against the model's controls.

    Raises:
        ValueError: the model does not have a name, or a value is outside of its limits.
    """
    controls = {control.name: control for control in contract.controls}
    for name, value in numbers.items():
        if name not in controls:
            known = f"one of {list(controls)}" if controls else "left out: the model has no numbers to set"
            raise ValueError(f"{name}={value!r} must be {known}.")
        if value is not None:
            _check_value(controls[name], value)


def _check_value(control: Control, value: Value) -> None:
    values = value if isinstance(value, list | tuple) else [value]
    if not 1 <= len(values) <= MAX_FRAMES:
        raise ValueError(f"{control.name} has {len(values)} numbers, must have 1 to {MAX_FRAMES}, one a pixel frame.")
    for one in values:
        if control.kind == "discrete" and one not in (0, 1):
            raise ValueError(f"{control.name}={one!r} must be 0 or 1: it is a key, pressed or not. Null releases it.")
        if isinstance(one, bool) or not isinstance(one, int | float) or not control.minimum <= one <= control.maximum:
            raise ValueError(
                f"{control.name}={one!r} must be a number in [{control.minimum:g}, {control.maximum:g}], or null, "
                "which leaves it to the model."
            )
