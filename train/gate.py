"""The end of every stage: save the weights, then measure them on held-out people and sentences.

A gate is stored with the weights it judges. Lip-sync is the correlation of the lip opening that a face mesh sees with
the opening that was meant; its ceiling is the same measure on the renders themselves.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from data.batch import LatentData
from data.crops import halved
from data.manifest import read_manifest
from data.shards import Clip, decode_sample, read_samples
from data.storage import Location
from gwm.autoencoders.families import autoencoder_config
from gwm.clock import SAMPLES_PER_FRAME
from gwm.contract import Contract
from gwm.lora import merged
from gwm.metrics.identity import share, stranger_similarity
from gwm.metrics.judge import Judge, Voices, means
from gwm.metrics.lip_sync import moves
from gwm.metrics.statistics import standard_error
from gwm.no_text import save_no_text
from gwm.resolution import Resolution
from gwm.weights import WeightsHeader, save_weights, write_gate, write_json
from train.played import Played

log = logging.getLogger(__name__)

MESH_STYLE = "anny"  # the rendered style whose faces the face mesh sees
DEMANDED = ("lip_sync", "lip_sync_of_ceiling", "motion", "identity_share")  # what the gates of configs/stage are about
WITH_CEILING = ("lip_sync", "border_flicker", "sync_confidence", "identity")
SYNC = Path("weights/sync")  # the network that judges lip-sync where no truth is known
RULED = ("lip_sync", "motion", "identity")  # measures that gates rule
OF_BEFORE = "_of_before"
SURE = 1.96  # standard errors on both sides of a mean: 95 %
OUTCOMES = {"failed": "failed", "undecided": "is undecided on so few people", "not_measured": "was not measured"}
NOT_JUDGED = "not judged: the stage was stopped after its weights were saved; run the same command again"


@runtime_checkable
class Stage(Protocol):
    """What `finish` needs of a stage."""

    takes_sound: bool  # whether its pictures depend on the voice

    def weights(self) -> tuple[nn.Module, WeightsHeader]:
        """The trained model, and the header of its weights, without a gate."""
        ...

    def decode(self, model: Any, clips: list[Clip], data: Any, *, batch_size: int, swap_voices: bool) -> Played:
        """Held-out clips as the stage's model makes them, as pixels; they may be shorter than the clips."""
        ...


def held_out(shards: Location, resolution: Resolution, count: int) -> list[Clip]:
    """Validation clips in which a rendered person speaks: only there the true lip opening is known. Where there are
    none, the first clips, on which fewer measures are possible."""
    if "val" not in read_manifest(shards).splits:  # footage of one or two people is all for training
        return []
    speaking, others = list[Clip](), list[Clip]()
    for sample in read_samples(shards, "val"):
        clip = halved(decode_sample(sample), resolution)
        if clip.truth is not None and clip.info["style"] == MESH_STYLE and moves(clip.mouth):
            speaking.append(clip)
        elif len(others) < count:
            others.append(clip)
    return speaking[:count] or others


def measure(judge: Judge, played: Played, clips: list[Clip], *, chunk_frames: int) -> dict[str, float]:
    """Means over what a stage made of the clips. Measures that gates rule have a standard error too, over people:
    people differ much, and a few clips prove little."""
    rows = []
    for frames, clip, start in zip(played[0], clips, played[1], strict=True):
        part = slice(start, start + len(frames))
        sound = slice(start * SAMPLES_PER_FRAME, (start + len(frames)) * SAMPLES_PER_FRAME)
        agent, user = (voice[sound] for voice in clip.voices)
        known = clip.truth is not None and clip.info["style"] == MESH_STYLE
        row, _ = judge(
            frames,
            render=clip.frames[part],
            mouth=clip.mouth[part] if known else None,
            reference=clip.reference,
            chunk_frames=chunk_frames,
            footage=clip.truth is None,
            voices=Voices(agent=agent, user=user, listening=np.zeros(len(frames), bool))
            if clip.truth is None
            else None,
        )
        rows.append(row)
    found, people = means(rows), [clip.person for clip in clips]
    for name in RULED:
        error = standard_error(np.array([row.get(name, np.nan) for row in rows]), people)
        if np.isfinite(error):
            found[f"{name}_error"] = error
    return found


def border_frames(header: WeightsHeader, num_frames: int) -> int:
    """Pixel frames between the borders at which clips of `num_frames` can flicker: a chunk of a model with a contract;
    a latent frame where a clip is one chunk, and of an autoencoder."""
    if not header.contract:
        return autoencoder_config(header.config).temporal_stride
    contract = Contract.from_json(header.contract)
    in_chunks = contract.chunk_pixel_frames < num_frames
    return contract.chunk_pixel_frames if in_chunks else contract.vae.temporal_stride


def judge_stage(
    stage: Stage, model: nn.Module, header: WeightsHeader, data: Any, *, clips: int, batch_size: int
) -> dict[str, Any]:
    """Means and errors of a model; the ceilings, which are the same measures on the clips themselves; the floor of
    identity, which is that of other people; the shares of the way between; and lip-sync with swapped voices.

    `not_measured` names what a gate can demand and these clips cannot show: nothing is known of it. On footage nobody
    knows where the mouth should be; a network judges there whether it follows the voice.
    """
    chosen = held_out(data.shards, data.resolution, clips)
    if not chosen:
        return {"clips": 0, "not_measured": list(DEMANDED)}
    footage = any(clip.truth is None for clip in chosen)
    judge = Judge(thorough=False, sync=SYNC if footage else None)
    played = stage.decode(model, chosen, data, batch_size=batch_size, swap_voices=False)
    chunk_frames = border_frames(header, len(played[0][0]))
    renders = [clip.frames[s : s + len(f)] for f, s, clip in zip(*played, chosen, strict=True)]
    gate: dict[str, Any] = {"clips": len(chosen), **measure(judge, played, chosen, chunk_frames=chunk_frames)}
    ceiling = measure(judge, (renders, played[1]), chosen, chunk_frames=chunk_frames)
    gate |= {f"{name}_ceiling": ceiling[name] for name in WITH_CEILING if name in ceiling}
    if judge.embedding is not None:
        faces = {clip.person: clip.reference for clip in chosen}
        gate["identity_floor"] = stranger_similarity(faces, judge.embedding)
    gate |= shares(gate)
    if stage.takes_sound and "lip_sync" in gate:
        swapped = stage.decode(model, chosen, data, batch_size=batch_size, swap_voices=True)
        gate["lip_sync_swapped"] = measure(judge, swapped, chosen, chunk_frames=chunk_frames)["lip_sync"]
    gate["not_measured"] = [name for name in DEMANDED if name not in gate]
    return gate | ({"skipped": judge.skipped} if judge.skipped else {})


def shares(gate: dict[str, Any]) -> dict[str, float]:
    """Shares of the way from floor to ceiling, with their errors: of lip-sync from 0, of identity from other people."""
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


def rules(gate: Mapping[str, Any], minimum: Mapping[str, float | None], before: Mapping[str, Any]) -> list[Rule]:
    """Each measured value of `gate` against its `minimum`, sorted by text. With names in _of_before, the minimum is a
    share of the value in the gate of the stage before. None demands nothing; names without a value are left to
    `unmeasured`. Where swapped voices keep more than half of the lip-sync, the mouth did not follow the voice.
    """
    found = []
    if "lip_sync_swapped" in gate:
        limit = gate["lip_sync"] / 2
        text = f"lip_sync_swapped={gate['lip_sync_swapped']:.3f} must be <= {limit:.3f}, half of it with the own voice"
        found.append(Rule(text, limit - gate["lip_sync_swapped"], 0.0))
    missing = unmeasured(gate, minimum, before)
    for name, limit in ((name, limit) for name, limit in minimum.items() if limit is not None and name not in missing):
        measured, of_before = name.removesuffix(OF_BEFORE), name.endswith(OF_BEFORE)
        value, error = gate[measured], gate.get(f"{measured}_error", 0.0)
        bound = limit * (before[measured] if of_before else 1.0)
        both = float(np.hypot(error, limit * before.get(f"{measured}_error", 0.0) if of_before else 0.0))
        spread = f" +- {error:.3f}" if error else ""
        found.append(Rule(f"{measured}={value:.3f}{spread} must be >= {bound:.3f}", value - bound, both))
    return sorted(found)


def unmeasured(gate: Mapping[str, Any], minimum: Mapping[str, float | None], before: Mapping[str, Any]) -> list[str]:
    """Rules of `minimum` without a number here, or in the gate of the stage before."""
    names = {name: name.removesuffix(OF_BEFORE) for name, limit in minimum.items() if limit is not None}
    return sorted(
        rule for rule, name in names.items() if name not in gate or (rule.endswith(OF_BEFORE) and name not in before)
    )


def verdict(
    gate: Mapping[str, Any], minimum: Mapping[str, float | None], before: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Rules that failed; rules that are undecided, because the 95 % interval holds the minimum; and what was not
    measured."""
    found = rules(gate, minimum, before)
    return {
        "failed": [rule.text for rule in found if rule.failed],
        "undecided": [rule.text for rule in found if rule.undecided],
        "not_measured": sorted({*gate.get("not_measured", ()), *unmeasured(gate, minimum, before)}),
    }


def finish(
    stage: Stage,
    data: Any,
    output: Path,
    *,
    clips: int,
    batch_size: int,
    minimum: dict[str, float | None],
    before: str | None,
    judge: Callable[..., dict[str, Any]] = judge_stage,
) -> None:
    """Save what the next stage starts from, then judge it; a failed gate is a warning here and in the next stage.

    before: folder of the stage before, whose gate is compared with; where it has none, nothing is compared.
    judge: takes what `judge_stage` does.
    """
    model, header = stage.weights()
    model = merged(model).eval()
    if isinstance(data, LatentData) and data.no_text is not None:
        save_no_text(output / "weights", data.no_text)
    save_then_judge(
        output,
        model.state_dict(),
        header,
        lambda: judge(stage, model, header, data, clips=clips, batch_size=batch_size),
        minimum=minimum,
        before=earlier_gate(before),
    )


def earlier_gate(folder: str | None) -> dict[str, Any]:
    """The gate of the stage before; empty where there is none, as before a published checkpoint."""
    path = None if folder is None else Path(folder, "gate.json")
    return json.loads(path.read_text()) if path is not None and path.is_file() else {}


def save_then_judge(
    output: Path,
    weights: Mapping[str, Tensor],
    header: WeightsHeader,
    judge: Callable[[], dict[str, Any]],
    *,
    minimum: Mapping[str, float | None],
    before: Mapping[str, Any],
) -> None:
    """Save the weights, then judge them, so that a judgement that fails or is killed costs no training."""
    folder = output / "weights"
    (output / "gate.json").unlink(missing_ok=True)  # of weights that are replaced now
    save_weights(folder, weights, replace(header, gate={"failed": [NOT_JUDGED]}))
    gate = judge()
    gate |= verdict(gate, minimum, before)
    write_gate(folder, gate)
    report_gate(output, gate)


def report_gate(output: Path, gate: dict[str, Any]) -> None:
    """Write a gate where the report looks for it, and log its outcome."""
    write_json(output / "gate.json", gate)
    shown = "  ".join(f"{k}={v:.3g}" for k, v in gate.items() if isinstance(v, int | float))
    log.info("gate of %s: %s", output, shown or "nothing was measured")
    for outcome, words in OUTCOMES.items():
        if gate.get(outcome):
            log.warning("gate of %s %s: %s", output, words, "; ".join(gate[outcome]))


ORDER = ("autoencoder", "bidirectional", "causal", "consistency", "dmd", "long", "regression")


def read_gates(runs: Path) -> dict[str, dict[str, Any]]:
    """Gates by stage; stages without a gate are left out."""
    paths = {stage: runs / stage / "gate.json" for stage in ORDER}
    return {stage: json.loads(path.read_text()) for stage, path in paths.items() if path.is_file()}
