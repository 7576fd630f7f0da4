"""Portraits that are no renders of people: photographs, and characters whose mouths are drawn, say test sentences.

Only of artifacts with motion latents, whose codes say how far the jaw was to open.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from tqdm import tqdm

from data.characters.exact_flow import MotionRenderer
from data.characters.renderer import Renderer
from evaluate.motion_autoencoder import (
    drawn_cases,
    drawn_mouth,
    measure_photograph,
    mouth_change,
    read_photographs,
)
from gwm.autoencoders.motion.code import from_latents, physical, place
from gwm.metrics.identity import stranger_similarity
from gwm.metrics.judge import Judge
from gwm.metrics.lip_sync import correlation
from gwm.report.page import Images, Section, Table
from serve.artifact import Artifact
from serve.engine import Engine

STILL = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0}  # a change around the mouth is that of the mouth
DRAWN_FRAMES = 72  # of a drawn character's performance

T = TypeVar("T")
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
        if self.photographs:
            report["model"]["photograph_lips"] = mean_of(self.photographs, "lip_sync")
        if self.drawn:
            report["model"]["drawn_mouth"] = mean_of(self.drawn, "mouth_follows")
        if self.photographs and "identity" in report["renders"]:
            report["model"]["photograph_identity"] = mean_of(self.photographs, "identity")
            report["renders"]["photograph_identity"] = report["renders"]["identity"]
            alone = not np.isfinite(self.strangers)  # one photograph: other people of the test split are the floor
            report["floor"]["photograph_identity"] = report["floor"]["identity"] if alone else self.strangers

    def sections(self) -> list[Section]:
        """A table and strips; nothing where nothing was measured."""
        rows = [
            [kind, name, *map(row.get, ("lip_sync", "mouth_follows", "identity", "faces_found"))]
            for kind, part in (("photograph", self.photographs), ("drawn", self.drawn))
            for name, row in part.items()
        ]
        if not rows:
            return []
        note = (
            "Lip-sync of photographs: correlation of the lips' gap with the jaw that the model meant. Mouth of drawn "
        )
        note += "characters: of the change around it with the opening that belongs to the sentence."
        columns = ["", "portrait", "lip-sync", "mouth", "identity", "faces found"]
        return [
            Table(title="Portraits from elsewhere", columns=columns, rows=rows, note=note),
            Images(title="Portraits from elsewhere speak", strips=self.strips),
        ]


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
    photographs: Mapping[str, UInt8[np.ndarray, "h w 3"]],
    voices: Sequence[Float[np.ndarray, " t"]],
    drawn: int,
    seed: int,
) -> Portraits:
    """Let every photograph say one of `voices` in turn, and `drawn` characters of all styles their own sentences.

    photographs: what `photographs_of` read. Without motion latents, nothing is measured.
    """
    side = artifact.contract.vae.working_side
    if side is None:
        return Portraits()
    strangers = stranger_similarity(photographs, judge.embedding) if judge.embedding else float("nan")
    found = Portraits(strangers=strangers)
    for number, (name, picture) in enumerate(_bar(photographs.items(), "photographs")):
        frames, jaw = speak(artifact, picture, voices[number % len(voices)], seed=seed + number, still=False)
        found.photographs[name] = measure_photograph(frames, picture, jaw, judge.mesh, judge.embedding)
        found.strips[name] = frames
    cases = drawn_cases(MotionRenderer(Renderer(side)), drawn, frames=DRAWN_FRAMES) if drawn else []
    for number, case in enumerate(_bar(cases, "drawn characters")):
        mouth = drawn_mouth(case)
        if mouth.any():  # some styles draw a mouth that no opening changes
            frames, _ = speak(artifact, case.motion.reference, case.act.agent, seed=seed + number, still=True)
            length = min(len(frames), len(case.opening))
            change = mouth_change(frames[:length], case.motion.reference, mouth)
            found.drawn[f"drawn {number}"] = {"mouth_follows": correlation(change, case.opening[:length])}
            found.strips[f"drawn {number}"] = frames
    return found


def _bar(what: Collection[T], name: str) -> Iterable[T]:
    return tqdm(what, desc=name, unit="clip", disable=not what)


def photographs_of(
    paths: Sequence[str], artifact: Artifact, judge: Judge, voices: Sequence[np.ndarray]
) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
    """Faces of pictures, by the names of their files.

    Raises:
        ValueError: a file is missing, is no picture or shows no face; two have one name; the
            artifact has no motion latents; there is no voice.
    """
    if not paths:
        return {}
    if artifact.contract.vae.working_side is None:
        raise ValueError("photographs= needs an artifact of motion latents: others draw what they were trained on.")
    if not voices:
        raise ValueError("photographs= needs a test clip in which somebody speaks, whose sentence they say.")
    found = read_photographs(list(paths), judge.mesh)
    if len(found) < len(paths):
        raise ValueError(f"photographs has {len(paths)} files of {len(found)} names: give each a name of its own.")
    return found
