import multiprocessing
import os
import threading
import time

import numpy as np

from serve.bench.live_server import memory_mb


def hold(megabytes: int) -> None:
    kept = np.ones(megabytes * 2**17)
    time.sleep(30 + 0 * kept[0])


def test_engines_are_found_also_when_another_thread_started_them():
    """As the live server does; the kernel lists a child with the thread that it belongs to."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=hold, args=(200,), daemon=True)
    done = threading.Event()
    starter = threading.Thread(target=lambda: (process.start(), done.wait()))
    starter.start()
    try:
        for _ in range(100):
            sizes = memory_mb(os.getpid())
            if sizes["engines"] > 200:
                break
            time.sleep(0.1)
        assert sizes["engines"] > 200 and sizes["server"] > 20
    finally:
        process.kill()
        process.join()
        done.set()
        starter.join()
    assert memory_mb(os.getpid())["engines"] == 0
