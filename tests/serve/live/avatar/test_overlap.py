"""Overlapped chunks on a clock that only the stages move: what they take, and when it is worth a chunk of delay."""

from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gwm.condition.inputs import Conditions
from serve.engine import Engine
from serve.live.avatar.overlap import OverlappedEngine, measured
from serve.pipeline import Lane, Lanes

CHUNK_MS = 1000 / 6  # four frames of 24 a second
CPU = torch.device("cpu")


class Clock:
    """Milliseconds of whoever works at the moment: a worker, or the caller."""

    now_ms = 0.0


class ClockedFuture(Future):
    """To wait for a result takes until the moment when it was set."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.set_ms = clock, 0.0

    def set_result(self, result: Any) -> None:
        self.set_ms = self.clock.now_ms
        super().set_result(result)

    def result(self, timeout: float | None = None) -> Any:
        self.clock.now_ms = max(self.clock.now_ms, self.set_ms)
        return super().result(timeout)


class ClockedLane(Lane):
    """A worker that does at once, by a clock of its own, what it would do later."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.free_ms, self.device, self.stream = clock, 0.0, CPU, None

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future:
        future, caller_ms = ClockedFuture(self.clock), self.clock.now_ms
        self.clock.now_ms = max(caller_ms, self.free_ms)
        future.set_result(work(*arguments))
        self.free_ms, self.clock.now_ms = self.clock.now_ms, caller_ms
        return future


class SlowEngine(Engine):
    """Two stages that take their time; frames are the number of their chunk."""

    def __init__(self, clock: Clock, *, denoise_ms: float, decode_ms: float) -> None:
        self.clock, self.denoise_ms, self.decode_ms, self.count = clock, denoise_ms, decode_ms, 0
        self.chunk = SimpleNamespace(emitted=None)

    device = CPU

    @property
    def decoder(self) -> Any:
        return self  # has the device

    def start(self, portrait: Any, text: Any = None) -> None: ...

    def take(self) -> Conditions:
        return Conditions()

    def denoise(self, condition: Any, emit: Callable[[torch.Tensor], None] = lambda x: None) -> torch.Tensor:
        self.clock.now_ms += self.denoise_ms
        latents = torch.full((1, 1, 1, 1, 1), float(self.count))
        self.count += 1
        emit(latents)
        return latents

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        self.clock.now_ms += self.decode_ms
        return np.full((4, 2, 2, 3), int(latents), np.uint8)


@pytest.mark.parametrize(("denoise_ms", "decode_ms"), [(100.0, 80.0), (151.0, 119.0), (80.0, 100.0), (90.0, 90.0)])
def test_a_chunk_takes_as_long_as_the_slower_stage(
    denoise_ms: float, decode_ms: float, monkeypatch: pytest.MonkeyPatch
):
    """151 and 119 are Runway's: one after the other they are too slow for 24 frames a second."""
    clock = Clock()
    monkeypatch.setattr("serve.pipeline.Future", lambda: ClockedFuture(clock))
    engine = SlowEngine(clock, denoise_ms=denoise_ms, decode_ms=decode_ms)
    overlapped = OverlappedEngine(engine, Lanes(ClockedLane(clock), ClockedLane(clock)))
    overlapped.start(np.zeros((2, 2, 3), np.uint8))
    times, shown = [], []
    for _ in range(20):
        shown.append(overlapped.step())
        times.append(clock.now_ms)
    assert shown[0] is None and [int(frames[0, 0, 0, 0]) for frames in shown[1:]] == list(range(19))
    assert np.diff(times[2:]) == pytest.approx(max(denoise_ms, decode_ms))
    begin = clock.now_ms
    engine.step()
    assert clock.now_ms - begin == denoise_ms + decode_ms  # without overlap


@pytest.mark.parametrize(
    ("mode", "alone_ms", "both_ms", "overlap", "reason"),
    [
        ("auto", 38.0, 25.0, False, "a chunk of 167 ms takes 38 ms by itself, overlap would show it 167 ms later"),
        (
            "auto",
            130.0,
            90.0,
            False,
            "a chunk of 167 ms takes 130 ms by itself, overlap would show it 167 ms later",
        ),
        ("auto", 270.0, 151.0, True, "a chunk of 167 ms takes 270 ms by itself and 151 ms overlapped"),
        ("auto", 270.0, 265.0, False, "a chunk of 167 ms takes 270 ms by itself and 265 ms overlapped"),
        ("on", 38.0, 25.0, True, "as configured; a chunk of 167 ms takes 25 ms"),
        ("off", 270.0, 151.0, False, "as configured; a chunk of 167 ms takes 270 ms"),
    ],
)
def test_overlap_is_chosen_where_a_chunk_is_too_slow_by_itself_and_faster_with_it(
    mode: str, alone_ms: float, both_ms: float, overlap: bool, reason: str
):
    found = measured(mode, chunk_ms=CHUNK_MS, time=lambda overlapped: both_ms if overlapped else alone_ms)
    assert (found.overlap, found.step_ms) == (overlap, both_ms if overlap else alone_ms)
    assert found.reason == reason
