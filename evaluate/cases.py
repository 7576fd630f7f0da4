"""Held-out people, drawn characters and conversations that an artifact is judged on."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from data.crops import halved
from data.shards import Clip, Truth, decode_sample, read_samples
from gwm.metrics.judge import Voices
from gwm.metrics.lip_sync import moves
from gwm.metrics.listening import can_answer
from gwm.resolution import Resolution

log = logging.getLogger(__name__)

SHUT = 0.02  # meant opening below which a mouth counts as shut
MESH_STYLE = "anny"  # the style whose faces the face mesh sees


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One held-out clip, as far as an evaluation needs it."""

    key: str
    style: str
    person: str
    reference: UInt8[np.ndarray, "h w 3"]
    render: UInt8[np.ndarray, "f h w 3"]
    mouth: Float[np.ndarray, " f"] | None  # the opening that was meant; None where nobody knows it
    voices: Voices
    truth: Truth | None = None  # what was drawn; None where nobody knows it
    footage: bool = False  # a recording: its face can be measured, and nobody knows where the mouth should be

    @property
    def speaks(self) -> bool:
        return self.mouth is not None and moves(self.mouth)

    @property
    def drawn(self) -> bool:
        """A character whose face the mesh does not see."""
        return self.mouth is None and not self.footage

    @property
    def listens(self) -> bool:
        return self.mouth is not None and can_answer(self.voices.listening)


def case_of(clip: Clip) -> Case:
    """A case of a clip; of real footage neither the lip opening nor the listener is known."""
    truth, (agent, user) = clip.truth, clip.voices
    measured = truth is not None and clip.info["style"] == MESH_STYLE
    listening = np.zeros(len(clip.frames), bool)
    if truth is not None:
        listening = truth.user_speaking & ~truth.agent_speaking & (truth.mouth < SHUT)
    return Case(
        key=clip.key,
        style=clip.info["style"],
        person=clip.person,
        reference=clip.reference.copy(),  # a decoded picture is read-only, which torch warns about
        render=clip.frames,
        mouth=clip.mouth if measured else None,
        voices=Voices(agent=agent, user=user, listening=listening),
        truth=truth if measured else None,
        footage=truth is None,
    )


def test_cases(shards: Path, resolution: Resolution, *, clips: int, listeners: int, drawn: int) -> list[Case]:
    """The first `clips` speaking people of the test split, rendered or filmed, `listeners` whose answers can be
    measured, and `drawn` characters; a clip may be two of these. Fewer where the split has fewer.

    Raises:
        ValueError: the split has none of them.
    """
    cases = [case_of(halved(decode_sample(sample), resolution)) for sample in read_samples(shards, "test")]
    chosen = [case for case in cases if case.speaks or case.footage][:clips]
    chosen += [case for case in cases if case.listens][:listeners]
    chosen += [case for case in cases if case.drawn][:drawn]
    if not chosen:
        raise ValueError(f"shards={shards} has no test clip in which somebody speaks or listens; make more clips.")
    cases = list({case.key: case for case in chosen}.values())
    flags = ((case.speaks, case.listens, case.drawn, case.footage) for case in cases)
    counts = [sum(column) for column in zip(*flags, strict=True)]
    log.info("%d clips: %d speak, %d listen, %d drawn, %d of real footage", len(cases), *counts)
    if not counts[0]:
        log.warning("lip-sync with the truth is not measured: in no test clip is it known where the mouth should be.")
    return cases
