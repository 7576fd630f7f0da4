"""Line charts as SVG text that takes its colours from the page around it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np
from jaxtyping import Float

WIDTH, HEIGHT = 440, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 34  # margins
MAX_POINTS = 400  # of a drawn line; a longer one is averaged down
NUM_COLOURS = 6  # the page defines --line0 and on


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points; it is broken where y is NaN."""

    x: Float[np.ndarray, " k"]
    y: Float[np.ndarray, " k"]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"x has {len(self.x)} points, must have as many as y, {len(self.y)}.")


@dataclass(frozen=True, slots=True)
class _Axis:
    """Values from `low` to `high` drawn from px `start` to `end`."""

    low: float
    high: float
    start: int
    end: int

    def at(self, values: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        return self.start + (values - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, float]]:
        """Round values and where they are drawn."""
        values = np.array(ticks(self.low, self.high))
        return list(zip(values.tolist(), self.at(values).tolist(), strict=True))


def line_chart(lines: Mapping[str, Line], *, x_label: str = "") -> str:
    """One chart with a legend. Both axes are linear and just hold all finite points."""
    drawn = {name: thinned(line) for name, line in lines.items()}
    across = _Axis(*_limits([line.x for line in drawn.values()]), LEFT, WIDTH - RIGHT)
    up = _Axis(*_limits([line.y for line in drawn.values()]), HEIGHT - BOTTOM, TOP)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    for value, y in up.ticks():
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value, x in across.ticks():
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{value:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) // 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    for number, line in enumerate(drawn.values()):
        path = _path(across.at(line.x), up.at(line.y))
        parts.append(f'<path class="line" style="stroke:var(--line{number % NUM_COLOURS})" d="{path}"/>')
    return "\n".join([*parts, "</svg>", _legend(list(drawn))])


def ticks(low: float, high: float, *, about: int = 6) -> list[float]:
    """Round numbers within [low, high]: multiples of 1, 2 or 5 times a power of ten, at most `about` + 1 of them."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def thinned(line: Line, points: int = MAX_POINTS) -> Line:
    """At most so many points, each the mean of its neighbours."""
    if len(line.x) <= points:
        return line
    bounds = np.linspace(0, len(line.x), points + 1).astype(int)
    x, y = (np.array([v[a:b].mean() for a, b in pairwise(bounds)]) for v in (line.x, line.y))
    return Line(x, y)


def _limits(values: list[np.ndarray]) -> tuple[float, float]:
    """The range of all finite values, widened if it is a point."""
    finite = np.concatenate([v[np.isfinite(v)] for v in values] or [np.zeros(0)])
    if len(finite) == 0:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    room = abs(high) / 2 or 0.5
    return low - room, high + room


def _path(x: np.ndarray, y: np.ndarray) -> str:
    words, pen = [], "M"
    for px, py in zip(x.tolist(), y.tolist(), strict=True):
        if math.isfinite(py):
            words.append(f"{pen}{px:.1f} {py:.1f}")
        pen = "L" if math.isfinite(py) else "M"
    return "".join(words)


def _legend(names: list[str]) -> str:
    colours = [f'<i style="background:var(--line{number % NUM_COLOURS})"></i>' for number in range(len(names))]
    entries = [f"<span>{colour}{escape(name)}</span>" for colour, name in zip(colours, names, strict=True)]
    return f'<p class="legend">{"".join(entries)}</p>'
