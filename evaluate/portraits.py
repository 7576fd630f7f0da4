"""Portraits that are no renders of people: photographs, and characters whose mouths are drawn, say test sentences.

Only of artifacts with motion latents, whose codes say how far the jaw was to open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from tqdm import tqdm

from data.characters.exact_flow import MotionRenderer
from data.characters.renderer import Renderer
from evaluate.motion_autoencoder import drawn_cases, drawn_mouth, mouth_change
from gwm.autoencoders.motion.code import from_latents, physical, place
from gwm.media.images import read_image
from gwm.media.portraits import crop_to_face
from gwm.metrics.face_track import face_track, lip_gap, seen
from gwm.metrics.identity import identity_similarity, stranger_similarity
from gwm.metrics.judge import SPARSE, Judge
from gwm.metrics.lip_sync import correlation, lip_sync
from gwm.report.page import Images, Section, Table
from gwm.resolution import Resolution
from serve.artifact import Artifact
from serve.engine import Engine

STILL = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0}  # a change around the mouth is that of the mouth
DRAWN_FRAMES = 72  # of a drawn character's performance

Frames = UInt8[np.ndarray, "f h w 3"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Portraits:
    """Measures by portrait, and what was seen of each."""

    photographs: dict[str, dict[str, float]] = field(default_factory=dict)
    drawn: dict[str, dict[str, float]] = field(default_factory=dict)
    strangers: float = float("nan")  # mean similarity of the photographs to one another
    strips: dict[str, Frames] = field(default_factory=dict)

    def add_to(self, report: dict[str, Any]) -> None:
        """Means for the gates beside those of the clips, and the rows. The renders' identity is the ceiling."""
        report["portraits"] = {"photographs": self.photographs, "drawn": self.drawn}
        for name, rows in (("photograph_lips", self.photographs), ("drawn_mouth", self.drawn)):
            if rows:
                report["model"][name] = mean_of(rows, "follows")
        if self.photographs and "identity" in report["renders"]:
            report["model"]["photograph_identity"] = mean_of(self.photographs, "identity")
            report["renders"]["photograph_identity"] = report["renders"]["identity"]
            report["floor"]["photograph_identity"] = self.strangers

    def sections(self) -> list[Section]:
        """A table and strips; nothing where nothing was measured."""
        rows = [[kind, name, *row.values()] for kind in ("photographs", "drawn") for name, row in self._rows(kind)]
        if not rows:
            return []
        note = "follows: of photographs, correlation of the lips' gap with the jaw that the model meant; of drawn "
        note += "characters, of the change around the mouth with the opening that was to be said."
        columns = ["", "portrait", "follows", "identity", "faces found"]
        rows = [row + [None] * (len(columns) - len(row)) for row in rows]
        return [
            Table(title="Portraits from elsewhere", columns=columns, rows=rows, note=note),
            Images(title="Portraits from elsewhere speak", strips=self.strips),
        ]

    def _rows(self, kind: str) -> list[tuple[str, dict[str, float]]]:
        return sorted(getattr(self, kind).items())


def mean_of(rows: Mapping[str, Mapping[str, float]], name: str) -> float:
    return float(np.mean([row[name] for row in rows.values()]))


def speak(
    artifact: Artifact, portrait: UInt8[np.ndarray, "h w 3"], voice: Float[np.ndarray, " t"], *, seed: int, still: bool
) -> tuple[Frames, Float[np.ndarray, " f"]]:
    """The stream of a portrait that says `voice` to nobody, and the opening of the jaw in the model's codes."""
    engine = Engine(artifact, seed=seed, size=artifact.contract.vae.working_side)
    engine.start(portrait)
    if still:
        engine.act(STILL)
    engine.push(voice, np.zeros_like(voice))
    engine.finish()
    frames, latents = [], []
    while engine.ready:
        latents.append(engine.denoise(engine.take()))
        frames.append(engine.decode(latents[-1]))
    codes = physical(from_latents(torch.cat(latents, dim=1)))[0]
    return np.concatenate(frames), codes[:, place("jawOpen")].float().cpu().numpy()


def speaking_portraits(
    artifact: Artifact,
    judge: Judge,
    *,
    photographs: Sequence[str],
    voices: Sequence[Float[np.ndarray, " t"]],
    drawn: int,
    seed: int,
) -> Portraits:
    """Let every photograph say one of `voices` in turn, and `drawn` characters of all styles their own sentences.

    Raises:
        ValueError: a photograph without a face, or photographs for an artifact without motion latents.
    """
    side = artifact.contract.vae.working_side
    if side is None:
        if photographs:
            raise ValueError("photographs= needs an artifact of motion latents: others draw what they were trained on.")
        return Portraits()
    pictures = {str(path): crop_to_face(read_image(path), Resolution(side, side), judge.mesh) for path in photographs}
    found = Portraits(
        strangers=stranger_similarity(pictures, judge.embedding) if judge.embedding else float("nan"),
    )
    for number, (path, picture) in enumerate(tqdm(pictures.items(), desc="photographs", unit="clip")):
        frames, jaw = speak(artifact, picture, voices[number % len(voices)], seed=seed + number, still=False)
        track, name = face_track(frames, judge.mesh), path.rsplit("/", 1)[-1]
        row = {"follows": lip_sync(lip_gap(track), jaw).correlation}
        if judge.embedding is not None:
            row["identity"] = float(np.nanmean(identity_similarity(frames[SPARSE], picture, judge.embedding)))
        found.photographs[name] = row | {"faces_found": seen(track)}
        found.strips[name] = frames
    cases = drawn_cases(MotionRenderer(Renderer(side)), drawn, frames=DRAWN_FRAMES) if drawn else []
    for number, case in enumerate(tqdm(cases, desc="drawn", unit="clip")):
        mouth = drawn_mouth(case)
        if mouth.any():  # some styles draw a mouth that no opening changes
            frames, _ = speak(artifact, case.motion.reference, case.act.agent, seed=seed + number, still=True)
            length = min(len(frames), len(case.opening))
            change = mouth_change(frames[:length], case.motion.reference, mouth)
            found.drawn[f"drawn {number}"] = {"follows": correlation(change, case.opening[:length])}
            found.strips[f"drawn {number}"] = frames
    return found
