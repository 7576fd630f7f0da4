"""The gates of a character (configs/evaluate.yaml), against the measures of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from evaluate.summary import MIN_PAIRS
from gwm.metrics.identity import share as share_of

Of = Literal["mean", "median", "share", "chance"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """One rule. Without a bound the measure has no rule and is shown beside the renders'.

    measure: of clips, or of a long stream as `endless.drifts` names it.
    of: what the bounds are for. mean: of all clips; median: of all clips, where one that was misread must not decide;
        share: the mean's way from the floor (0 where the report has none) to the renders', the ceiling;
        chance: the mean's 95 % interval must hold 0, and needs no bound.
    """

    measure: str
    of: Of = "mean"
    minimum: float | None = None
    maximum: float | None = None

    @property
    def rule(self) -> str:
        """The bounds in words; empty where there is none."""
        if self.of == "chance":
            return "not distinguished from 0"
        sides = [
            f"{sign} {bound:g}" for sign, bound in ((">=", self.minimum), ("<=", self.maximum)) if bound is not None
        ]
        return " and ".join(sides) + (" of the way to the ceiling" if self.of == "share" and sides else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A gate with the measured values. None: not measured; the ceiling is the same measure on renders, the floor on
    unrelated data."""

    measure: str
    rule: str
    number: float | None
    floor: float | None
    ceiling: float | None
    share: float | None  # of the way from floor to ceiling, where the rule is about that
    reached: bool | None  # None: no rule, not measured, or on too few clips to exclude chance

    def __str__(self) -> str:
        share = "" if self.share is None else f" ({self.share:.2f} of the way to the ceiling)"
        return f"{self.measure}={self.number:.3g}{share}, must be {self.rule}"


def verdicts(gates: Sequence[Gate], report: Mapping[str, Any], *, ceiling: str = "renders") -> list[Verdict]:
    """Every gate against `report`: what `summary.numbers` makes, with `long` of `endless.drifts` and each `floor`.

    ceiling: the side of the report that is the truth.
    """
    return [_verdict(gate, report, ceiling) for gate in gates]


def _verdict(gate: Gate, report: Mapping[str, Any], side: str) -> Verdict:
    number, ceiling = _number(gate, report, "model"), _number(gate, report, side)
    floor = report["floor"].get(gate.measure)
    share = None
    if gate.of == "share" and number is not None and ceiling:
        share = share_of(number, floor=floor or 0.0, ceiling=ceiling)
    verdict = Verdict(
        measure=gate.measure, rule=gate.rule, number=number, floor=floor, ceiling=ceiling, share=share, reached=None
    )
    judged = share if gate.of == "share" else number
    if gate.of == "chance" and number is not None:
        interval = report["intervals"]["model"][gate.measure]
        holds = bool(interval["low"] <= 0 <= interval["high"])
        return replace(verdict, reached=holds if interval["groups"] >= MIN_PAIRS else None)
    if judged is None or not gate.rule:
        return verdict
    low, high = (-np.inf if gate.minimum is None else gate.minimum), (np.inf if gate.maximum is None else gate.maximum)
    return replace(verdict, reached=bool(low <= judged <= high))


def _number(gate: Gate, report: Mapping[str, Any], side: str) -> float | None:
    if side == "model" and gate.measure in report["long"]:
        return report["long"][gate.measure]
    if gate.measure not in report[side]:
        return None
    if gate.of != "median":
        return report[side][gate.measure]
    rows = [row[side] for row in report["rows"].values()]
    return float(np.median([row[gate.measure] for row in rows if gate.measure in row]))


def summary(found: Sequence[Verdict]) -> str:
    """How many gates are reached, and which are not."""
    judged = [verdict for verdict in found if verdict.reached is not None]
    line = f"{sum(bool(verdict.reached) for verdict in judged)} of {len(judged)} gates reached"
    missed = "; ".join(str(verdict) for verdict in judged if not verdict.reached)
    unknown = ", ".join(verdict.measure for verdict in found if verdict.rule and verdict.reached is None)
    return line + (f"; missed: {missed}" if missed else "") + (f"; not measured: {unknown}" if unknown else "")
