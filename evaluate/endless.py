"""Stability: one stream over minutes, of which one second in `every_s` is measured.

The voices repeat, and in every round of them the same seconds are looked at: what differs is the stream and not the
words. A minute is as many whole rounds as come nearest to one.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from tqdm import tqdm

from evaluate.cases import Case
from evaluate.examine import load_arrays, save_arrays
from gwm.contract import Contract
from gwm.metrics.identity import identity_similarity
from gwm.metrics.judge import Judge
from gwm.metrics.movement import border_flicker, exposure, motion_energy, saturation, sharpness
from serve.artifact import Artifact
from serve.engine import Engine

DRIFTING = ("identity", "saturation", "exposure", "sharpness")
FACES = slice(None, None, 6)  # frames of a second whose face is recognised, which costs 0.1 s each
KEPT_LOOKS = 6  # between which what was reached is kept; a minute of the stream, a third of it to compute
SERIES, STATE = "series/", "state/"  # what the arrays of a kept stream are named under

Series = dict[str, Float[np.ndarray, " k"]]


class Stream(Iterator[UInt8[np.ndarray, "f h w 3"]]):
    """Chunks without end: the first case's face, all cases' voices one after the other, again and again.

    `state` is all that the next chunks depend on; after `resume` they are those of a stream that was never stopped.
    """

    def __init__(self, artifact: Artifact, cases: list[Case], *, seed: int) -> None:
        self.engine, self.cases = Engine(artifact, seed=seed, size=artifact.contract.vae.working_side), cases
        self.chunks = self.pushed = 0  # chunks shown, cases heard
        self.engine.start(cases[0].reference)
        self.round_chunks = sum(len(case.voices.agent) for case in cases) // self.engine.chunk_samples

    def __next__(self) -> UInt8[np.ndarray, "f h w 3"]:
        while not self.engine.ready:
            voices = self.cases[self.pushed % len(self.cases)].voices
            self.engine.push(voices.agent, voices.user)
            self.pushed += 1
        self.chunks += 1
        return self.engine.step()

    def state(self) -> dict[str, np.ndarray]:
        """Views into the engine's storage: save them before the next chunk."""
        engine, counters = self.engine, (self.chunks, self.pushed, self.engine.rollout.frame)
        kept = {name: part.cpu().numpy() for name, part in self._tensors().items()}
        return {"counters": np.array(counters), "heard": engine.timeline.samples.numpy(), **kept}

    def resume(self, state: dict[str, np.ndarray]) -> None:
        """Go on where a stream of the same artifact, cases and seed was."""
        engine = self.engine
        self.chunks, self.pushed, engine.rollout.frame = (int(count) for count in state["counters"])
        engine.timeline.samples, engine.timeline.num_chunks = torch.from_numpy(state["heard"]), self.chunks
        for name, tensor in self._tensors().items():
            tensor.copy_(torch.from_numpy(state[name]))

    def _tensors(self) -> dict[str, torch.Tensor]:
        cache = self.engine.rollout.cache
        decoder = {f"decoder/{number}": part for number, part in enumerate(self.engine.decoder.memory.moving)}
        return {"k": cache.k, "v": cache.v, "sink_k": cache.sink_k, "frame": cache.frame, **decoder}


def looks(
    stream: Stream, contract: Contract, *, length_s: float, every_s: float
) -> Iterator[tuple[float, int, UInt8[np.ndarray, "f h w 3"]]]:
    """One second in `every_s` of each round, in whole chunks, from the stream's present chunk on: the time of its end
    in seconds, its minute, and its frames.

    Raises:
        ValueError: there are not two minutes, or fifths of the stream where that is less.
    """
    chunk_s = contract.chunk_ms / 1000
    shown, period, total = round(1 / chunk_s) or 1, max(1, round(every_s / chunk_s)), int(length_s / chunk_s)
    rounds = round(min(60, length_s / 5) / chunk_s / stream.round_chunks) or 1
    minute = rounds * stream.round_chunks
    if total < 2 * minute:
        raise ValueError(
            f"long_s={length_s} must be at least {2 * minute * chunk_s:g}: the same words, {minute * chunk_s:g} s, are "
            "compared at its ends. Take fewer clips, or a longer stream."
        )
    second: list[UInt8[np.ndarray, "f h w 3"]] = []
    with tqdm(total=total, initial=stream.chunks, desc="long stream", unit="chunk") as bar:
        while stream.chunks < total:
            begins = stream.chunks % stream.round_chunks % period == 0
            pixels = next(stream)
            bar.update()
            if begins or second:
                second.append(pixels)
            if len(second) == shown:
                yield stream.chunks * chunk_s, (stream.chunks - shown) // minute, np.concatenate(second)
                second = []


def look(
    frames: UInt8[np.ndarray, "f h w 3"], reference: UInt8[np.ndarray, "h w 3"], judge: Judge, *, chunk_frames: int
) -> dict[str, float]:
    """Measures of one second. A frame without a face resembles nobody: its identity counts as 0."""
    row = {
        "saturation": float(saturation(frames).mean()),
        "exposure": float(exposure(frames).mean()),
        "sharpness": float(sharpness(frames).mean()),
        "motion energy": motion_energy(frames),
        "border flicker": border_flicker(frames, chunk_frames=chunk_frames),
    }
    if judge.embedding is not None:
        row["identity"] = float(np.nan_to_num(identity_similarity(frames[FACES], reference, judge.embedding)).mean())
    return row


def hold(
    artifact: Artifact, cases: list[Case], judge: Judge, *, seed: int, length_s: float, every_s: float, kept: Path
) -> Series:
    """Measures of each second that is looked at, with its time (`seconds`) and `minute`. Continues from the file
    `kept`, which holds the stream's state.

    Raises:
        ValueError: as `looks`.
    """
    contract, stream = artifact.contract, Stream(artifact, cases, seed=seed)
    series: defaultdict[str, list[float]] = defaultdict(list)
    before = load_arrays(kept)
    if before is not None:
        stream.resume(_part(before, STATE))
        series |= {name: values.tolist() for name, values in _part(before, SERIES).items()}
    for at, minute, frames in looks(stream, contract, length_s=length_s, every_s=every_s):
        row = look(frames, cases[0].reference, judge, chunk_frames=contract.chunk_pixel_frames)
        for name, value in {"seconds": at, "minute": float(minute), **row}.items():
            series[name].append(value)
        if len(series["seconds"]) % KEPT_LOOKS == 0:
            measured = {SERIES + name: np.array(values) for name, values in series.items()}
            save_arrays(kept, measured | {STATE + name: array for name, array in stream.state().items()})
    return {name: np.array(values) for name, values in series.items()}


def _part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def by_minute(series: Series, name: str) -> Float[np.ndarray, " m"]:
    """Means of a measure over each whole minute, as shares of the first minute's. Values that are NaN are left out."""
    counts = np.bincount(series["minute"].astype(int))
    minutes = [series[name][series["minute"] == number] for number in np.flatnonzero(counts == counts[0])]
    means = np.array([np.nanmean(values) for values in minutes])
    return means / means[0]


def drifts(series: Series) -> dict[str, float]:
    """By how much the minute that differs most differs from the first, as a share of it. Motion comes in bursts, so
    that minutes differ anyway: of it, the second half of the stream against the first."""
    found = {}
    if "motion energy" in series:
        first, second = np.array_split(series["motion energy"], 2)
        found["motion_drift"] = float(second.mean() / first.mean() - 1)
    for name in (name for name in DRIFTING if name in series):
        change = by_minute(series, name) - 1
        found[f"{name}_drift"] = float(change[np.abs(change).argmax()])
    return found
