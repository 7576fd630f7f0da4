"""All measurements of one case, as numbers for JSON."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch

from gwm.clock import FPS
from serve.artifact import load_artifact
from serve.bench.case import Case
from serve.bench.counters import counting
from serve.bench.roofline import measure_peaks, pass_work
from serve.bench.timing import CLOCKS, Stopwatch, allocated, growth, peak, percentiles, ratios, reset_peak, take_turns
from serve.bench.viewer import smallest_buffer, watch
from serve.bench.workload import Options, Workload, make
from serve.engine import Engine
from serve.graphs import capture_on
from serve.pipeline import Lane
from serve.tuning import choose_decode_precision, choose_products, choose_threads

EARLY, LATE = 100, 14_400  # chunks; the later one is shown after 40 minutes


def measure(case: Case, stopwatch: Stopwatch, *, chunks: int) -> dict[str, Any]:
    """Times, counters, memory and the share of the roofline of one case; `chunks` steady chunks are timed."""
    reset_peak(stopwatch.device)
    clock = CLOCKS[stopwatch.clock]
    begin = clock()
    workload = make(case, stopwatch.device)
    first_cold = 1000 * (clock() - begin) + _first_frame_ms(workload, stopwatch)
    first_warm = _first_frame_ms(workload, stopwatch)
    workload.fill()
    passes = [stopwatch.ms(workload.one_pass) for _ in range(max(3, chunks // 4))]
    steady, memory = _steady(workload, stopwatch, chunks)
    floor_ms = pass_work(case).floor_ms(measure_peaks(case, stopwatch))
    pass_ms = percentiles(passes)
    return {
        "case": case.name,
        "clock": stopwatch.clock,
        "parameters": sum(p.numel() for p in workload.rollout.model.parameters()),
        "pass_ms": pass_ms,
        "floor_ms_per_pass": floor_ms,
        "roofline_fraction": floor_ms / pass_ms["p50"],
        "chunk_roofline_fraction": (len(case.contract().sigmas) + 1) * floor_ms / steady["denoise_ms"]["p50"],
        "first_frame_ms": {"cold": first_cold, "warm": first_warm},
        **steady,
        **live(steady["chunk_times_ms"], period_ms=4000 * case.chunk_frames / FPS),
        **memory,
        **counters(workload),
        "late": _late(workload, stopwatch, chunks),
    }


def _first_frame_ms(workload: Workload, stopwatch: Stopwatch) -> float:
    def first() -> None:
        workload.start()
        workload.chunk()

    return stopwatch.ms(first)


def _steady(workload: Workload, stopwatch: Stopwatch, chunks: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Chunks in sequence, then pipelined; and what memory does meanwhile."""
    device = stopwatch.device
    denoise, decode, sizes = [], [], []
    latents = torch.zeros(workload.rollout.chunk_shape, device=device, dtype=workload.reference.dtype)
    for _ in range(chunks):
        denoise.append(stopwatch.ms(lambda: latents.copy_(workload.denoise())))
        decode.append(stopwatch.ms(lambda: workload.decode(latents)) if workload.case.decoder else 0.0)
        sizes.append(allocated(device))
    both = [a + b for a, b in zip(denoise, decode, strict=True)]
    times = {"denoise_ms": percentiles(denoise), "decode_ms": percentiles(decode), "chunk_ms": percentiles(both)}
    overlap = _overlap(workload, stopwatch, chunks, sum(denoise) / chunks, sum(decode) / chunks)
    memory = {"memory_peak_bytes": peak(device), "memory_slope_bytes_per_1000_chunks": growth(sizes)}
    return {**times, "chunk_times_ms": both, **overlap}, memory


def _overlap(
    workload: Workload, stopwatch: Stopwatch, chunks: int, denoise_ms: float, decode_ms: float
) -> dict[str, dict[str, float]]:
    """Iteration time with a decoding thread (and stream) beside; efficiency 1: the shorter stage is hidden, 0: none."""
    if not workload.case.decoder or stopwatch.clock == "cpu":  # what runs at the same time shows on the wall alone
        return {}
    lane = Lane("decode", stopwatch.device)

    def decode(latents: torch.Tensor, final: Any) -> None:
        if lane.stream is not None:
            lane.stream.wait_event(final)
        workload.decode(latents)

    def iterate() -> None:
        before: Future | None = None
        for _ in range(chunks):
            latents = workload.denoise().clone()
            final = torch.cuda.current_stream().record_event() if lane.stream is not None else None
            if before is not None:
                before.result()
            before = lane.submit(decode, latents, final)
        if before is not None:
            before.result()

    iteration_ms = stopwatch.ms(iterate) / chunks
    lane.thread.shutdown()
    hidden = (denoise_ms + decode_ms - iteration_ms) / min(denoise_ms, decode_ms)
    return {"overlap": {"iteration_ms": iteration_ms, "sum_ms": denoise_ms + decode_ms, "efficiency": hidden}}


def _late(workload: Workload, stopwatch: Stopwatch, rounds: int) -> dict[str, float]:
    """How many times as long a chunk takes 40 minutes into the stream as early in it."""

    def at(chunk: int) -> Callable[[], object]:
        def run() -> None:
            workload.jump(chunk)
            workload.denoise()

        return run

    return ratios(take_turns({"early": at(EARLY), "late": at(LATE)}, stopwatch, rounds=rounds), "early")["late"]


def live(chunk_times_ms: list[float], *, period_ms: float) -> dict[str, Any]:
    """How these times would look to somebody watching, when the sound of a chunk comes once a period."""
    now, arrivals = 0.0, []
    for number, took in enumerate(chunk_times_ms):
        now = max(now, number * period_ms) + took
        arrivals.append(now / 1000)
    watched = watch(arrivals, period_s=period_ms / 1000)
    return {
        "period_ms": period_ms,
        "fps": FPS * period_ms * len(chunk_times_ms) / sum(chunk_times_ms),
        "deadline_attainment": sum(took <= period_ms for took in chunk_times_ms) / len(chunk_times_ms),
        "viewer": {
            "stalls": watched.num_stalls,
            "stalled_s": watched.stalled_s,
            "attainment": watched.attainment,
            "smallest_buffer_chunks": smallest_buffer(arrivals, period_s=period_ms / 1000),
        },
    }


def counters(workload: Workload) -> dict[str, Any]:
    """Of one steady chunk, run eagerly; on a GPU a replayed graph is one launch."""
    eager = Workload(workload.case, (workload.rollout.model, workload.vae), Options(cache=workload.options.cache))
    eager.fill()
    cache, contract = eager.rollout.cache, eager.rollout.contract
    noises = eager.rollout.noises()
    with counting([cache.k, cache.v]) as counts:
        eager.rollout.generate(noises, eager.condition)
    passes = len(contract.sigmas) + 1
    return {
        "kernel_calls_per_chunk": counts.kernel_calls,
        "kernel_calls_per_pass": counts.kernel_calls / passes,
        "host_reads_per_chunk": counts.host_reads,
        "cache_bytes_per_chunk": counts.cache_bytes,
        "graph": workload.graphed.replay is not None,
    }


def measure_artifact(folder: str, *, chunks: int, size: int | None) -> dict[str, Any]:
    """Milliseconds of loading, of the first frame and of steady chunks, portrait and sound included, with as many
    threads as are fastest and the decoder in the precision that a server would choose. size: as of the engine."""
    begin = time.perf_counter()
    artifact = load_artifact(folder)
    engine = Engine(artifact, seed=0, capture=capture_on(artifact.dit.head.weight.device), size=size)
    threads = choose_threads(engine)
    products, precision = choose_products(engine), choose_decode_precision(engine, "auto")
    loaded_ms = 1000 * (time.perf_counter() - begin)
    generator = np.random.default_rng(0)
    portrait = generator.integers(0, 256, (*engine.size, 3), dtype=np.uint8)
    agent, user = 0.1 * generator.standard_normal((2, chunks * engine.chunk_samples), dtype=np.float32)
    first = engine.play(portrait, agent[: engine.chunk_samples], user[: engine.chunk_samples])[1][0]
    times = engine.play(portrait, agent, user)[1]
    return {
        "case": f"{folder} {size or ''}".strip(),
        "size_px": list(engine.size),
        "threads": threads,
        "products": products,
        "decode_precision": str(precision).removeprefix("torch."),
        "parameters": sum(p.numel() for p in artifact.dit.parameters()),
        "loaded_ms": loaded_ms,
        "first_frame_ms": {"cold": loaded_ms + first, "warm": times[0]},
        "chunk_ms": percentiles(times[1:]),
        **live(times[1:], period_ms=artifact.contract.chunk_ms),
    }
