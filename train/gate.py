"""The end of every stage: write the weights, then measure on people and sentences that no training saw.

A gate is stored with the weights it judges. Lip-sync is the correlation of the lip opening that a face mesh sees with
the opening that was meant; its ceiling is the same measure on the renders themselves.
"""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import nn

from data.batch import LatentData
from data.manifest import read_manifest
from data.pixels import halved
from data.shards import Clip, decode_sample, read_samples
from data.storage import Location
from gwm.autoencoder import autoencoder_config
from gwm.contract import Contract
from gwm.lora import merged
from gwm.metrics.identity import share, stranger_similarity
from gwm.metrics.judge import Judge, means
from gwm.metrics.lip_sync import moves
from gwm.metrics.statistics import standard_error
from gwm.no_text import save_no_text
from gwm.weights import save_weights, update_header, write_json
from train.generate import Played

log = logging.getLogger(__name__)

RULED = ("lip_sync", "motion", "identity")  # measures that gates rule
OF_BEFORE = "_of_before"
SURE = 1.96  # standard errors on both sides of a mean: 95 %
OUTCOMES = {"failed": "failed", "undecided": "is undecided on so few people", "unmeasured": "was not measured"}


@runtime_checkable
class Stage(Protocol):
    """What `finish` needs of a stage."""

    hears: bool  # whether its pictures depend on the voice

    def weights(self) -> tuple[nn.Module, dict[str, Any]]:
        """The trained model, and `kind`, `config` and what else belongs beside its weights."""
        ...

    def decode(self, model: Any, clips: list[Clip], data: Any, *, batch_size: int, swap_voices: bool) -> Played:
        """The stage's own version of held-out clips, as pixels; may be shorter than the clips."""
        ...


def held_out(shards: Location, resolution: int, count: int) -> list[Clip]:
    """Validation clips in which a rendered person speaks: only there is a lip-sync to measure."""
    if "val" not in read_manifest(shards).splits:  # footage of one or two people is all for training
        return []
    clips = []
    for sample in read_samples(shards, "val"):
        clip = halved(decode_sample(sample), resolution)
        if clip.info["style"] == "anny" and moves(clip.mouth):
            clips.append(clip)
    return clips[:count]


def measure(judge: Judge, played: Played, clips: list[Clip], *, chunk_frames: int) -> dict[str, float]:
    """Means over clips of what a stage made of them, and the standard errors of those that gates rule, person by
    person: they differ much between people, and a few clips tell little."""
    rows = []
    for frames, clip, start in zip(played[0], clips, played[1], strict=True):
        part = slice(start, start + len(frames))
        row, _ = judge(
            frames,
            render=clip.frames[part],
            mouth=clip.mouth[part],
            reference=clip.reference,
            chunk_frames=chunk_frames,
        )
        rows.append(row)
    found, people = means(rows), [str(clip.info["identity"]) for clip in clips]
    for name in RULED:
        error = standard_error(np.array([row.get(name, np.nan) for row in rows]), people)
        if np.isfinite(error):
            found[f"{name}_error"] = error
    return found


def border_frames(facts: dict[str, Any], num_frames: int) -> int:
    """Pixel frames between the borders at which clips of `num_frames` can flicker, of a model with these `facts` beside
    its weights: its chunks', or the latent frames' where a clip is one chunk and of an autoencoder."""
    if "contract" not in facts:
        return autoencoder_config(facts["config"]).temporal_stride
    contract = Contract.from_json(facts["contract"])
    in_chunks = contract.chunk_pixel_frames < num_frames
    return contract.chunk_pixel_frames if in_chunks else contract.vae.temporal_stride


def judge_stage(
    stage: Stage, model: nn.Module, facts: dict[str, Any], data: Any, *, clips: int, batch_size: int
) -> dict[str, Any]:
    """Means of a model with their errors, ceilings on renders, the floor of identity on other people, the shares
    between, and what of its lip-sync is left with swapped voices."""
    chosen = held_out(data.shards, data.resolution, clips)
    if not chosen:
        return {"clips": 0}
    judge = Judge(thorough=False)
    played = stage.decode(model, chosen, data, batch_size=batch_size, swap_voices=False)
    chunk = {"chunk_frames": border_frames(facts, len(played[0][0]))}
    renders = [clip.frames[s : s + len(f)] for f, s, clip in zip(*played, chosen, strict=True)]
    gate: dict[str, Any] = {"clips": len(chosen), **measure(judge, played, chosen, **chunk)}
    ceiling = measure(judge, (renders, played[1]), chosen, **chunk)
    gate |= {f"{name}_ceiling": ceiling[name] for name in ("lip_sync", "border_flicker", "identity") if name in ceiling}
    if judge.embedding is not None:
        faces = {str(clip.info["identity"]): clip.reference for clip in chosen}
        gate["identity_floor"] = stranger_similarity(faces, judge.embedding)
    gate |= shares(gate)
    if stage.hears:
        swapped = stage.decode(model, chosen, data, batch_size=batch_size, swap_voices=True)
        gate["lip_sync_swapped"] = measure(judge, swapped, chosen, **chunk)["lip_sync"]
    return gate | ({"skipped": judge.skipped} if judge.skipped else {})


def shares(gate: dict[str, Any]) -> dict[str, float]:
    """Lip-sync from 0, and identity from another person, to the renders', with their errors."""
    made = {}
    for name, called in (("lip_sync", "lip_sync_of_ceiling"), ("identity", "identity_share")):
        floor, ceiling = gate.get(f"{name}_floor", 0.0 if name == "lip_sync" else None), gate.get(f"{name}_ceiling")
        if name not in gate or floor is None or ceiling is None or not ceiling > floor:
            continue
        made[called] = share(gate[name], floor=floor, ceiling=ceiling)
        if f"{name}_error" in gate:
            made[f"{called}_error"] = gate[f"{name}_error"] / (ceiling - floor)
    return made


class Rule(NamedTuple):
    """What a gate demands, against what was found; kept where `margin` >= 0."""

    text: str
    margin: float
    error: float  # standard error of the margin; 0: unknown

    @property
    def failed(self) -> bool:
        return not self.margin + SURE * self.error >= 0  # also where it is not a number

    @property
    def undecided(self) -> bool:
        return self.error > 0 and abs(self.margin) <= SURE * self.error


def rules(gate: dict[str, Any], least: dict[str, float], before: dict[str, Any]) -> list[Rule]:
    """`least` holds minima, as numbers or, for names ending in _of_before, as shares of the gate of the stage before;
    those that were not measured are in `unmeasured`. A lip-sync of which swapped voices leave more than half was never
    there."""
    found = []
    if "lip_sync_swapped" in gate:
        limit = gate["lip_sync"] / 2
        text = f"lip_sync_swapped={gate['lip_sync_swapped']:.3f} must be <= {limit:.3f}, half of it with the own voice"
        found.append(Rule(text, limit - gate["lip_sync_swapped"], 0.0))
    for name in set(least) - set(unmeasured(gate, least, before)):
        measured, of_before = name.removesuffix(OF_BEFORE), name.endswith(OF_BEFORE)
        value, error = gate[measured], gate.get(f"{measured}_error", 0.0)
        minimum = least[name] * (before[measured] if of_before else 1.0)
        both = float(np.hypot(error, least[name] * before.get(f"{measured}_error", 0.0) if of_before else 0.0))
        spread = f" +- {error:.3f}" if error else ""
        found.append(Rule(f"{measured}={value:.3f}{spread} must be >= {minimum:.3f}", value - minimum, both))
    return sorted(found)


def unmeasured(gate: dict[str, Any], least: dict[str, float], before: dict[str, Any]) -> list[str]:
    """Rules of `least` without a number here, or in the gate of the stage before."""
    names = {name: name.removesuffix(OF_BEFORE) for name in least}
    return sorted(
        rule for rule, name in names.items() if name not in gate or (rule.endswith(OF_BEFORE) and name not in before)
    )


def verdict(gate: dict[str, Any], least: dict[str, float], before: dict[str, Any]) -> dict[str, list[str]]:
    """What is missed for sure; what is undecided, as its 95 % interval holds the minimum; what was not measured."""
    found = rules(gate, least, before)
    return {
        "failed": [rule.text for rule in found if rule.failed],
        "undecided": [rule.text for rule in found if rule.undecided],
        "unmeasured": unmeasured(gate, least, before),
    }


def earlier_gate(before: str | None) -> dict[str, Any]:
    """The gate of the stage before; empty where there is none, as of a published checkpoint."""
    path = Path(before or "", "gate.json")
    return json.loads(path.read_text()) if before and path.is_file() else {}


def finish(
    stage: Stage, data: Any, output: Path, *, clips: int, batch_size: int, least: dict[str, float], before: str | None
) -> None:
    """Save what the next stage starts from, then judge it and keep the gate beside it. A failed gate is a warning here
    and in the next stage; an error while judging leaves the weights, with an empty gate."""
    model, facts = stage.weights()
    model, folder = merged(model).eval(), output / "weights"
    if isinstance(data, LatentData) and data.no_text is not None:
        save_no_text(folder, data.no_text)
    save_weights(folder, model.state_dict(), gate={}, **facts)
    gate = judge_stage(stage, model, facts, data, clips=clips, batch_size=batch_size)
    gate |= verdict(gate, least, earlier_gate(before))
    update_header(folder, gate=gate)
    report_gate(output, gate)


def report_gate(output: Path, gate: dict[str, Any]) -> None:
    """Write a judged gate where the report looks for it, and say how it went."""
    write_json(output / "gate.json", gate)
    shown = "  ".join(f"{k}={v:.3g}" for k, v in gate.items() if isinstance(v, int | float))
    log.info("gate of %s: %s", output, shown)
    for outcome, words in OUTCOMES.items():
        if gate.get(outcome):
            log.warning("gate of %s %s: %s", output, words, "; ".join(gate[outcome]))
