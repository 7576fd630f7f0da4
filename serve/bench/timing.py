"""Times that can be compared: candidates take turns within one run, and ratios are taken turn by turn; and memory of
the process, live tensors on a GPU, resident pages on a CPU."""

import gc
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

Run = Callable[[], object]


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Stopwatch:
    """Times what runs on one device.

    clock: wall; or cpu, the time that this process had, for a machine that others use at the same time: with one
    thread (OMP_NUM_THREADS=1) it is what the wall clock would show on a machine of one's own.
    """

    device: torch.device
    clock: str = "wall"

    def __post_init__(self) -> None:
        if self.clock not in CLOCKS or (self.clock == "cpu" and self.device.type != "cpu"):
            raise ValueError(f"clock={self.clock!r} must be wall, or cpu where device={self.device} is the CPU.")

    def ms(self, run: Run) -> float:
        """Milliseconds until `run` has ended, on the device too."""
        clock = CLOCKS[self.clock]
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        begin = clock()
        run()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return 1000 * (clock() - begin)


def percentiles(times_ms: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and the largest, by the nearest rank."""
    ordered = sorted(times_ms)
    ranks = {f"p{p}": ordered[max(0, -(-p * len(ordered) // 100) - 1)] for p in (50, 95, 99)}
    return {**ranks, "max": ordered[-1]}


def take_turns(runs: Mapping[str, Run], stopwatch: Stopwatch, *, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every candidate in every round; rounds go forwards and backwards in turn (ABBA), so that a
    machine that slows down slows down all."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        names = list(runs) if number % 2 == 0 else list(reversed(list(runs)))
        for name in names:
            times[name].append(stopwatch.ms(runs[name]))
    return times


def ratios(times: Mapping[str, Sequence[float]], base: str) -> dict[str, dict[str, float]]:
    """How many times as long as `base` each candidate took: median and quartiles over the rounds. Below 1 it won."""
    result = {}
    for name, mine in times.items():
        if name != base:
            each = [a / b for a, b in zip(mine, times[base], strict=True)]
            low, median, high = statistics.quantiles(each, n=4) if len(each) > 1 else (each[0], each[0], each[0])
            result[name] = {"median": median, "q1": low, "q3": high}
    return result


PROCESS = Path("/proc/self")


def allocated(device: torch.device) -> int:
    """Bytes that are allocated now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    gc.collect()
    return int((PROCESS / "statm").read_text().split()[1]) * resource.getpagesize()


def growth(sizes: Sequence[int], *, every: int = 1) -> float:
    """Bytes per 1000 chunks, of sizes seen `every` so many chunks: between the smallest of the last quarter and of the
    one before. What a chunk takes, and the allocator gives back now and then, is no growth.

    Raises:
        ValueError: fewer than two sizes.
    """
    if len(sizes) < 2:
        raise ValueError(f"{len(sizes)} sizes, must be at least 2: growth is a difference. Measure more chunks.")
    quarter = max(1, len(sizes) // 4)
    before, after = min(sizes[-2 * quarter : -quarter]), min(sizes[-quarter:])
    return 1000 * (after - before) / (quarter * every)


def reset_peak(device: torch.device) -> None:
    """Forget earlier peaks: each case has its own."""
    if device.type == "cuda":
        return torch.cuda.reset_peak_memory_stats(device)
    (PROCESS / "clear_refs").write_text("5")  # man 5 proc: the peak becomes what is resident now


def peak(device: torch.device) -> int:
    """Most bytes at a time since `reset_peak`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    line = next(line for line in (PROCESS / "status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])
