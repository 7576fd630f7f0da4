"""Threads, products and the precision of the decoder of an engine on a CPU, chosen by measuring on the machine that
serves."""

import dataclasses
import logging
import os
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Literal

import numpy as np
import torch

from gwm.autoencoders.motion.codec import MotionAutoencoder
from gwm.dit import DiT
from kernels.linear import onednn_computes
from serve.artifact import Artifact
from serve.engine import Engine

log = logging.getLogger(__name__)

Products = Literal["pytorch", "onednn", "onednn, attention too"]
TIMED = 3  # calls with each number of threads
GAIN = 0.9  # more threads must bring the time below this share, or their cores are left to others
ROUNDS, FASTER = 5, 0.95  # of each way, in turns; another one must bring the time below this share of the usual one's
VARIABLE = "OMP_NUM_THREADS"


def choose_threads(engine: Engine, *, decoded: bool = True) -> int:
    """Threads with which a chunk of this engine is fastest now, set for the process; the engine has to be started anew.

    decoded: decoding counts; False where many steps take nearly all of the time.

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
        latents = engine.denoise(engine.take())
        if decoded:
            engine.decode(latents)

    chosen = fastest(step, max_threads=len(os.sched_getaffinity(0)))
    log.info("%d of %d threads: fastest for a chunk now", chosen, len(os.sched_getaffinity(0)))
    return chosen


def one_step(artifact: Artifact) -> Engine:
    """A stream whose chunks take one step, for `choose_threads` of a model of many."""
    contract = artifact.contract.replace(sigmas=(1.0,), solver="ode")
    return Engine(dataclasses.replace(artifact, contract=contract), seed=0)


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


def choose_products(engine: Engine, *, now: Callable[[], float] = perf_counter) -> Products:
    """By what the denoiser's products are computed on a CPU, set for all engines of its artifact.

    oneDNN's, with weights in its own order, where a chunk is faster so: PyTorch takes MKL's, which leave AVX-512 unused
    on CPUs of AMD. Of many tokens, attention too. Frames may differ in the last bit. The engine has to be started anew.
    """
    dit = engine.rollout.model
    if engine.device.type != "cpu" or engine.ranks is not None or not isinstance(dit, DiT):
        return "pytorch"
    if not onednn_computes(dit.head.weight.dtype):
        return "pytorch"
    rows = engine.contract.pattern.chunk_frames * engine.rollout.cache.patches
    ways: dict[Products, Callable[[], None]] = {
        "pytorch": partial(dit.order, None, attention=False),
        "onednn": partial(dit.order, rows, attention=False),
        "onednn, attention too": partial(dit.order, rows, attention=True),
    }
    engine.start(np.zeros((*engine.size, 3), np.uint8))
    engine.push_silence(engine.lookahead_samples)
    times: dict[Products, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, order in ways.items():
            order()
            engine.push_silence(engine.chunk_samples)
            conditions = engine.take()
            began = now()
            engine.denoise(conditions)
            times[name].append(now() - began)
    took: dict[Products, float] = {name: float(np.median(ms[1:])) for name, ms in times.items()}  # the first warms up
    best = min(took, key=lambda name: took[name])
    chosen: Products = best if took[best] < FASTER * took["pytorch"] else "pytorch"
    ways[chosen]()
    log.info("products by %s: %s", chosen, ", ".join(f"{name} {1000 * s:.0f} ms" for name, s in took.items()))
    return chosen


def choose_decode_precision(engine: Engine, wish: str, *, now: Callable[[], float] = perf_counter) -> torch.dtype:
    """What the decoder of a motion artifact computes in on a CPU, set for all engines of its artifact.

    wish: auto, float32 or bfloat16. auto: bfloat16 where that decodes a chunk faster here, as CPUs with AVX512-BF16 or
    AMX do; others emulate it and are slower. Flows and pictures are float32 either way: a photograph at 512 px differs
    by 54 dB. Other families, and GPUs, keep what they were loaded in. The engine has to be started anew.
    """
    if engine.device.type != "cpu" or not isinstance(engine.vae, MotionAutoencoder):
        return engine.vae.dtype
    if wish != "auto":
        chosen = getattr(torch, wish)
    else:
        engine.start(np.zeros((*engine.size, 3), np.uint8))
        latents = 0.3 * torch.randn(engine.rollout.picture_shape, generator=torch.Generator().manual_seed(0))
        times: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
        for _ in range(ROUNDS):
            for dtype, measured in times.items():
                engine.vae.compute_in(dtype)
                began = now()
                engine.decode(latents)
                measured.append(now() - began)
        full, half = (float(np.median(measured[1:])) for measured in times.values())  # the first warms up
        chosen = torch.bfloat16 if half < FASTER * full else torch.float32
        log.info("decoder in %s: a chunk takes %.0f ms in float32, %.0f in bfloat16", chosen, 1000 * full, 1000 * half)
    engine.vae.compute_in(chosen)
    return chosen
