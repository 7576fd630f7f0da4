"""Threads are those with which a chunk is fastest at the time."""

import pytest
import torch

from serve.threads import fastest


@pytest.fixture(autouse=True)
def as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "ms, max_threads, chosen",
    [
        ({1: 33, 2: 672}, 2, 1),  # the cores are shared with others
        ({1: 33, 2: 18}, 2, 2),
        ({1: 33, 2: 32}, 2, 1),  # not worth a core
        ({1: 80, 2: 41, 4: 22, 6: 17}, 6, 6),
        ({1: 80, 2: 41, 4: 60, 8: 1}, 8, 2),  # what is beyond is not tried
    ],
)
def test_the_fastest_number_of_threads_is_set(ms: dict[int, float], max_threads: int, chosen: int):
    clock, used = [0.0], set()

    def step() -> None:
        used.add(torch.get_num_threads())
        clock[0] += ms[torch.get_num_threads()]

    assert fastest(step, max_threads=max_threads, now=lambda: clock[0]) == chosen == torch.get_num_threads()
    assert used <= set(ms)
