import time

import pytest
import torch

from serve.bench.timing import Stopwatch, percentiles, ratios, take_turns

CPU = torch.device("cpu")


def test_percentiles_are_by_nearest_rank():
    times = [float(x) for x in range(100, 0, -1)]
    assert percentiles(times) == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0}
    assert percentiles([7.0]) == {"p50": 7.0, "p95": 7.0, "p99": 7.0, "max": 7.0}


def test_ratios_are_taken_round_by_round():
    """A machine that is ten times slower in one round does not move them."""
    times = {"ours": [1.0, 10.0, 1.0, 1.0], "theirs": [2.0, 20.0, 2.0, 2.0]}
    assert ratios(times, "ours") == {"theirs": {"median": 2.0, "q1": 2.0, "q3": 2.0}}


def test_candidates_take_turns_forwards_and_backwards():
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    take_turns(runs, Stopwatch(CPU), rounds=3)
    assert order == list("abccbaabc")


def test_the_cpu_clock_leaves_out_what_others_had():
    assert Stopwatch(CPU, "cpu").ms(lambda: time.sleep(0.2)) < 100 < Stopwatch(CPU, "wall").ms(lambda: time.sleep(0.2))


def test_a_gpu_has_no_cpu_clock():
    with pytest.raises(ValueError, match="clock='cpu' must be wall"):
        Stopwatch(torch.device("cuda"), "cpu")
