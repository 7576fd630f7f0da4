"""Measures of one stream at several lengths, over the last seconds before each of them."""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from evaluate.cases import Case
from evaluate.endless import Stream
from gwm.clock import FPS
from gwm.metrics.face_track import face_track, lip_gap, seen
from gwm.metrics.identity import identity_similarity
from gwm.metrics.judge import SPARSE, Judge
from gwm.metrics.lip_sync import lip_sync
from gwm.metrics.movement import motion_energy, saturation
from serve.artifact import Artifact

LOOK_S = 10  # seconds that are looked at before each length


def meant_opening(cases: Sequence[Case], start: int, count: int) -> Float[np.ndarray, " f"] | None:
    """Lip openings of the frames of a stream that is given the cases' voices one after the other, again and again; None
    where a case has no known lip opening, as of real footage."""
    if any(case.mouth is None for case in cases):
        return None
    whole = np.concatenate([case.mouth for case in cases if case.mouth is not None])
    return whole[np.arange(start, start + count) % len(whole)]


def looks(
    artifact: Artifact, cases: list[Case], *, seed: int, lengths_s: Sequence[int]
) -> Iterator[tuple[int, int, UInt8[np.ndarray, "f h w 3"]]]:
    """For each length in seconds: the length, the first frame that is measured, and LOOK_S seconds of frames up to the
    length.

    Raises:
        ValueError: lengths do not rise, or the first one is shorter than what is looked at.
    """
    if list(lengths_s) != sorted(set(lengths_s)) or lengths_s[0] < LOOK_S:
        raise ValueError(f"lengths_s={list(lengths_s)} must rise from {LOOK_S} on: that many seconds are looked at.")
    size, wanted = artifact.contract.chunk_pixel_frames, list(lengths_s)
    kept: deque[UInt8[np.ndarray, "t h w 3"]] = deque(maxlen=math.ceil(FPS * LOOK_S / size))
    bar = tqdm(total=FPS * lengths_s[-1] // size, desc=f"stream of {lengths_s[-1]} s", unit="chunk", leave=False)
    for number, pixels in enumerate(Stream(artifact, cases, seed=seed)):
        bar.update()
        kept.append(pixels)
        end = (number + 1) * size
        while wanted and end >= FPS * wanted[0]:
            yield wanted.pop(0), end - size * len(kept), np.concatenate(list(kept))
        if not wanted:
            break
    bar.close()


def at_lengths(
    artifact: Artifact, cases: list[Case], judge: Judge, *, seed: int, lengths_s: Sequence[int]
) -> dict[str, dict[str, float]]:
    """Measures by length in seconds, of the first case's face; motion in units of the mean render's."""
    motion = float(np.mean([motion_energy(case.render) for case in cases]))
    found: dict[str, dict[str, float]] = {}
    for length, start, frames in looks(artifact, cases, seed=seed, lengths_s=lengths_s):
        track = face_track(frames, judge.mesh)
        row = {
            "faces_found": seen(track),
            "motion": motion_energy(frames) / max(motion, 1e-6),
            "saturation": float(saturation(frames).mean()),
        }
        meant = meant_opening(cases, start, len(frames))
        if meant is not None:
            row["lip_sync"] = lip_sync(lip_gap(track), meant).correlation
        if judge.embedding is not None:
            alike = identity_similarity(frames[SPARSE], cases[0].reference, judge.embedding)
            if np.isfinite(alike).any():  # else no face was found, which is not a face like nobody's
                row["identity"] = float(np.nanmean(alike))
        found[str(length)] = row
    return found


def length_rows(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[list[str | int | float | None]]:
    """Variant, seconds and measures of every variant that was streamed, for a table."""
    names = ("lip_sync", "identity", "motion", "saturation", "faces_found")
    return [
        [variant, int(length), *(row.get(name) for name in names)]
        for variant, lengths in found.items()
        for length, row in lengths.items()
    ]


LENGTH_COLUMNS = ("variant", "seconds", "lip_sync", "identity", "motion", "saturation", "faces_found")
