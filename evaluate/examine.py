"""One clip, played and measured; results are stored, so that an evaluation can be continued."""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from evaluate.cases import Case
from gwm.files.outputs import whole_file
from gwm.metrics.diversity import seed_diversity
from gwm.metrics.frechet import STRIDE, motion_features, picture_features
from gwm.metrics.judge import Judge
from gwm.metrics.movement import exposure, frame_differences, saturation, sharpness
from serve.artifact import MANIFEST, Artifact
from serve.engine import Engine

VERSION = 4  # of what is measured: clips kept by another version are measured again
FEATURE_STEP = 6  # frames between those whose features are compared
SIDES = ("model", "renders")


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What is stored of one clip. Keys of the first level of the dictionaries: model, renders."""

    key: str
    style: str
    person: str  # whose clips are no independent measurements
    rows: dict[str, dict[str, float]]  # metrics by name
    curves: dict[str, dict[str, Float[np.ndarray, " f"]]]  # by name
    features: dict[str, dict[str, Float[np.ndarray, "k c"]]]  # picture, motion; empty without the backbone
    frames: UInt8[np.ndarray, "f h w 3"]  # of the model

    def save(self, path: Path) -> None:
        """Write whole or not at all."""
        facts = json.dumps({"key": self.key, "style": self.style, "person": self.person, "rows": self.rows})
        arrays: dict[str, np.ndarray] = {"facts": np.array(facts), "frames": self.frames}
        for kind, sides in (("curves", self.curves), ("features", self.features)):
            arrays |= {f"{kind}/{side}/{name}": v for side, part in sides.items() for name, v in part.items()}
        save_arrays(path, arrays)


def load_result(path: Path) -> Result | None:
    """A kept result, or None where there is none that can be read."""
    arrays = load_arrays(path)
    if arrays is None:
        return None
    nested: dict[str, dict[str, dict[str, Any]]] = {kind: {s: {} for s in SIDES} for kind in ("curves", "features")}
    for name, value in arrays.items():
        kind, *rest = name.split("/")
        if rest:
            nested[kind][rest[0]][rest[1]] = value
    facts: dict[str, Any] = json.loads(str(arrays["facts"]))
    return Result(frames=arrays["frames"], curves=nested["curves"], features=nested["features"], **facts)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an npz whole or not at all."""
    with whole_file(path) as partial:
        np.savez_compressed(partial, allow_pickle=False, **arrays)


def load_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """What `save_arrays` wrote, or None where there is nothing that can be read."""
    if not path.is_file():
        return None
    try:
        with np.load(path) as kept:
            return {name: kept[name] for name in kept.files}
    except (ValueError, zipfile.BadZipFile):  # a damaged file costs the time of what was in it, not the evaluation
        return None


def work_folder(out: Path, artifact: Path, shards: Path, judge: Judge, sync: Path, **settings: Any) -> Path:
    """Where results of this artifact, data, judge and settings are kept: other ones never meet in a folder."""
    digest = hashlib.sha256()
    for file in (artifact / MANIFEST, shards / "manifest.json", sync / "weights.safetensors"):
        digest.update(file.read_bytes() if file.is_file() else b"none")
    digest.update(json.dumps([VERSION, sorted(judge.skipped), settings], sort_keys=True).encode())
    return out / "clips" / digest.hexdigest()[:12]


def play(
    artifact: Artifact, case: Case, *, seed: int, user: Float[np.ndarray, " t"] | None = None
) -> tuple[UInt8[np.ndarray, "f h w 3"], list[float]]:
    """The clip as the server would play it, and the milliseconds of every chunk; `user` replaces the other side."""
    heard = case.voices.user if user is None else user
    return Engine(artifact, seed=seed, size=artifact.contract.vae.working_side).play(
        case.reference, case.voices.agent, heard
    )


def examine(
    artifact: Artifact, case: Case, judge: Judge, *, seed: int, seeds: int, other_user: Float[np.ndarray, " t"]
) -> Result:
    """Play a clip, with more seeds and with another user's voice too, and measure model and render alike."""
    takes = [play(artifact, case, seed=seed + number)[0] for number in range(seeds)]
    frames = takes[0]
    truth = {
        "render": case.render[: len(frames)],
        "mouth": case.mouth,
        "reference": case.reference,
        "chunk_frames": artifact.contract.chunk_pixel_frames,
        "voices": case.voices,
        "footage": case.footage,
    }
    sides = {"model": frames, "renders": truth["render"]}
    rows, curves, features = {}, {}, {}
    for side, pixels in sides.items():
        rows[side], opening = judge(pixels, **truth)
        curves[side] = over_time(pixels) | ({} if case.drawn else {"opening": opening})
        features[side] = frechet_features(pixels, judge)
    if seeds > 1:
        rows["model"]["seed_diversity"] = seed_diversity(takes)
    if case.listens:
        shuffled = play(artifact, case, seed=seed, user=other_user)[0]
        control = {
            "model": judge.answer(shuffled, case.voices.user, case.voices.listening),
            "renders": judge.answer(truth["render"], other_user, case.voices.listening),
        }
        for side, value in control.items():
            if np.isfinite(value):
                rows[side]["user_response_shuffled"] = value
    facts = {"key": case.key, "style": case.style, "person": case.person}
    return Result(**facts, rows=rows, curves=curves, features=features, frames=frames)


def over_time(frames: UInt8[np.ndarray, "f h w 3"]) -> dict[str, Float[np.ndarray, " f"]]:
    """What collapses first in a long stream, frame by frame."""
    moved = frame_differences(frames)
    return {
        "saturation": saturation(frames),
        "exposure": exposure(frames),
        "sharpness": sharpness(frames),
        "motion energy": np.concatenate([moved[:1], moved]),
    }


def frechet_features(frames: UInt8[np.ndarray, "f h w 3"], judge: Judge) -> dict[str, Float[np.ndarray, "k c"]]:
    if judge.perceptual is None:
        return {}
    starts = range(0, len(frames) - STRIDE, FEATURE_STEP)
    return {
        "picture": picture_features(frames[::FEATURE_STEP], judge.perceptual),
        "motion": motion_features(frames, judge.perceptual, starts),
    }
