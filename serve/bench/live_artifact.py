"""An exported artifact through the engine, with sound: what a visitor gets."""

import time
from typing import Any

import numpy as np

from serve.artifact import load_artifact
from serve.bench.speed import live
from serve.bench.timing import percentiles
from serve.engine import Engine
from serve.graphs import capture_on


def measure_artifact(folder: str, *, chunks: int) -> dict[str, Any]:
    """Milliseconds of loading, of the first frame and of steady chunks, portrait and sound included."""
    begin = time.perf_counter()
    artifact = load_artifact(folder)
    engine = Engine(artifact, seed=0, capture=capture_on(artifact.dit.head.weight.device))
    loaded_ms = 1000 * (time.perf_counter() - begin)
    generator = np.random.default_rng(0)
    portrait = generator.integers(0, 256, (*engine.size, 3), dtype=np.uint8)
    agent, user = 0.1 * generator.standard_normal((2, chunks * engine.chunk_samples), dtype=np.float32)
    first = engine.play(portrait, agent[: engine.chunk_samples], user[: engine.chunk_samples])[1][0]
    times = engine.play(portrait, agent, user)[1]
    return {
        "case": folder,
        "parameters": sum(p.numel() for p in artifact.dit.parameters()),
        "loaded_ms": loaded_ms,
        "first_frame_ms": {"cold": loaded_ms + first, "warm": times[0]},
        "chunk_ms": percentiles(times[1:]),
        **live(times[1:], period_ms=artifact.contract.chunk_ms),
    }
