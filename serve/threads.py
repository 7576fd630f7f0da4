"""The number of CPU threads of an engine, chosen by measurement, as it depends on what else runs on the machine."""

import logging
import os
from collections.abc import Callable
from time import perf_counter

import numpy as np
import torch

from serve.engine import Engine

log = logging.getLogger(__name__)

TIMED = 3  # calls with each number of threads
GAIN = 0.9  # more threads must bring the time below this share, or their cores are left to others
VARIABLE = "OMP_NUM_THREADS"


def choose_threads(engine: Engine) -> int:
    """Threads with which a chunk of this engine is fastest now, set for the process; the engine has to be started anew.

    More threads than free cores wait for each other at every operation: on two cores that others use, two threads took
    672 ms for what one did in 33. `OMP_NUM_THREADS` decides where it is set, and on a GPU nothing changes. Frames may
    differ in the last bit with another number of threads.
    """
    if engine.device.type != "cpu" or VARIABLE in os.environ:
        return torch.get_num_threads()
    engine.start(np.zeros((*engine.size, 3), np.uint8))
    engine.push_silence(engine.lookahead_samples)

    def step() -> None:
        engine.push_silence(engine.chunk_samples)
        engine.step()

    chosen = fastest(step, max_threads=len(os.sched_getaffinity(0)))
    log.info("%d of %d threads: fastest for a chunk now", chosen, len(os.sched_getaffinity(0)))
    return chosen


def fastest(step: Callable[[], None], *, max_threads: int, now: Callable[[], float] = perf_counter) -> int:
    """The number of threads, doubled from one on while that pays, with which `step` is fastest; it is set."""
    best, best_s = 1, float("inf")
    torch.set_num_threads(1)
    step()  # warms up
    for threads in sorted({*(2**k for k in range(max_threads.bit_length()) if 2**k <= max_threads), max_threads}):
        torch.set_num_threads(threads)
        times = []
        for _ in range(TIMED):
            began = now()
            step()
            times.append(now() - began)
        if (took := float(np.median(times))) > GAIN * best_s:
            break
        best, best_s = threads, took
    torch.set_num_threads(best)
    return best
