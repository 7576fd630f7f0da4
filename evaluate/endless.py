"""Does it hold: one stream over minutes, of which one second in `every_s` is looked at."""

from collections.abc import Iterator
from itertools import cycle

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from evaluate.cases import Case
from gwm.metrics.identity import identity_similarity
from gwm.metrics.judge import Judge
from gwm.metrics.motion import border_flicker, drift, exposure, motion_energy, saturation, sharpness
from serve.artifact import Artifact
from serve.engine import Engine

DRIFTING = ("identity", "saturation", "exposure", "sharpness")

Series = dict[str, Float[np.ndarray, " k"]]


def stream(artifact: Artifact, cases: list[Case], *, seed: int) -> Iterator[UInt8[np.ndarray, "f h w 3"]]:
    """Chunks without end: the first case's face, all cases' voices one after the other, again and again."""
    engine = Engine(artifact, seed=seed)
    engine.start(cases[0].reference)
    for case in cycle(cases):
        engine.push(case.voices.agent, case.voices.user)
        while engine.ready:
            yield engine.step()


def sampled(
    artifact: Artifact, cases: list[Case], *, seed: int, length_s: float, every_s: float
) -> Iterator[tuple[float, UInt8[np.ndarray, "f h w 3"]]]:
    """One second in `every_s`, in whole chunks, with the time of its end in seconds."""
    contract = artifact.contract
    chunk_s = contract.chunk_ms / 1000
    shown, period = round(1 / chunk_s) or 1, max(1, round(every_s / chunk_s))
    kept: list[UInt8[np.ndarray, "f h w 3"]] = []
    chunks = tqdm(range(int(length_s / chunk_s)), desc="long stream", unit="chunk")
    for number, pixels in zip(chunks, stream(artifact, cases, seed=seed), strict=False):
        if number % period < shown:
            kept.append(pixels)
        if len(kept) == shown:
            yield (number + 1) * chunk_s, np.concatenate(kept)
            kept = []


def hold(artifact: Artifact, cases: list[Case], judge: Judge, *, seed: int, length_s: float, every_s: float) -> Series:
    """What is measured in each second that is looked at; `seconds` is when.

    Raises:
        ValueError: fewer than five seconds would be looked at.
    """
    if length_s < 5 * every_s:
        raise ValueError(f"long_s={length_s} must be at least 5 * long_every_s={every_s}: its ends are compared.")
    chunk_frames = artifact.contract.chunk_pixel_frames
    rows = []
    for at, frames in sampled(artifact, cases, seed=seed, length_s=length_s, every_s=every_s):
        row = {
            "seconds": at,
            "saturation": float(saturation(frames).mean()),
            "exposure": float(exposure(frames).mean()),
            "sharpness": float(sharpness(frames).mean()),
            "motion energy": motion_energy(frames),
            "border flicker": border_flicker(frames, chunk_frames=chunk_frames),
        }
        if judge.embedding is not None:
            row["identity"] = float(identity_similarity(frames[:1], cases[0].reference, judge.embedding)[0])
        rows.append(row)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def drifts(series: Series) -> dict[str, float]:
    """How much the last minute of a stream differs from the first, as shares of the first; of streams shorter than five
    minutes, the last fifth from the first."""
    if not series:
        return {}
    seconds = series["seconds"]
    part = int((seconds <= min(60, seconds[-1] / 5)).sum()) or 1
    return {f"{name}_drift": drift(series[name], part=part) for name in DRIFTING if name in series}
