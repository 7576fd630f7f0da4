"""An edit of a film: the settings of configs/edit.yaml, checked before anything is loaded."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gwm.files.outputs import check_output
from gwm.media.video import container_of
from gwm.resolution import Resolution
from serve.acts import TimedNumbers
from serve.many_steps import Sampling
from serve.request import ClipRequest, timed_numbers
from serve.workers import check_workers

MOUTH = "mouth"


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """One edit; None: not given, or the model's own."""

    video: str
    out: str
    artifact: str
    mask: str | None = None  # a picture, a video, or MOUTH
    box: Any = None  # x, y, width, height in px
    between: Any = None  # seconds from the first picture
    canvas: Any = None
    prompt: str | None = None
    source: str | None = None
    negative_prompt: str | None = None
    image: str | None = None
    act: Any = None  # as `ClipRequest.act`
    view: Any = None
    resolution: Any = None
    window: int | None = None
    overlap: int = 8
    rounds: int = 1
    strength: float | int = 0.66
    draws: int = 1
    source_guidance: float | int | None = None
    steps: int | None = None
    shift: float | int | None = None
    guidance: float | int | None = None
    sampler: Any = None
    text_encoder: str | None = None
    vae: str | None = None
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        check_workers(self.workers)
        self.sampling.check()
        self.source_sampling.check()
        self.timed_numbers()
        for name in ("box", "view"):
            if (value := vars(self)[name]) is not None:
                check_rectangle(name, value)
        if self.mask is not None and self.box is not None:
            raise ValueError(f"mask={self.mask} and box={list(self.box)} exclude each other: give one of both.")
        if self.between is not None:
            times = self.between
            ordered = _are_numbers(times) and len(times) == 2 and 0 <= times[0] < times[1] < math.inf
            if not ordered:
                raise ValueError(f"between={times} must be two times in seconds, the earlier one first: between=[1,3].")
        if self.canvas is not None:
            self.canvas_size.check_multiple(2, of="colours that two pixels share")
        for name, least in (("rounds", 1), ("draws", 1), ("overlap", 0)):
            if not (isinstance(vars(self)[name], int) and vars(self)[name] >= least):
                raise ValueError(f"{name}={vars(self)[name]} must be a whole number, at least {least}.")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength={self.strength} must be in (0, 1]: the share of steps that change something.")
        if self.source is not None and self.prompt is None:
            raise ValueError(f"source={self.source!r} needs prompt=...: what the film shall show in its place.")
        if all(value is None for value in (self.mask, self.box, self.between, self.canvas, self.source)):
            raise ValueError(
                "one of mask, box, between, canvas or source must be given: nothing else says what is to be changed."
            )

    @property
    def sampling(self) -> Sampling:
        return Sampling(steps=self.steps, shift=self.shift, guidance=self.guidance, sampler=self.sampler)

    @property
    def source_sampling(self) -> Sampling:
        return Sampling(steps=self.steps, shift=self.shift, guidance=self.source_guidance, sampler=self.sampler)

    def timed_numbers(self) -> list[TimedNumbers]:
        """All that `act` sets, in the order of its times.

        Raises:
            ValueError: as `serve.request.timed_numbers`.
        """
        return timed_numbers(self.act)

    @property
    def canvas_size(self) -> Resolution:
        try:
            return Resolution.parse(self.canvas)
        except ValueError as error:
            raise ValueError(
                f"canvas={self.canvas} must be height x width in px of the new film, as canvas=720x1280."
            ) from error

    def check(self) -> None:
        """Raises:
        ValueError: no film can be written to `out`.
        """
        container_of(self.out)
        for name in ("video", "mask", "image"):
            path = vars(self)[name]
            if path is not None and path != MOUTH and Path(path).exists() and Path(self.out).exists():
                if Path(self.out).samefile(path):
                    raise ValueError(f"out={self.out} must not be {name}={path} itself: name another file.")
        check_output(Path(self.out))

    def clip(self, resolution: Resolution, *, seconds: float | None) -> ClipRequest:
        """What a published model is asked for, one window of the film at a time."""
        return ClipRequest(
            artifact=self.artifact,
            out=self.out,
            prompt=self.prompt or "",
            negative_prompt=self.negative_prompt,
            text_encoder=self.text_encoder,
            steps=self.steps,
            shift=self.shift,
            guidance=self.guidance,
            sampler=self.sampler,
            resolution=str(resolution),
            seconds=seconds,
            seed=self.seed,
        )


def check_rectangle(name: str, value: Any) -> None:
    whole = _are_numbers(value) and len(value) == 4 and all(isinstance(x, int) for x in value)
    if not whole or min(value[:2]) < 0 or min(value[2:]) < 1:
        raise ValueError(f"{name}={value} must be whole px [x, y, width, height], as {name}=[64,32,128,96].")


def _are_numbers(value: object) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(x, int | float) and not isinstance(x, bool) for x in value
    )
