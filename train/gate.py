"""The end of every stage: write the weights, then measure on people and sentences that no training saw.

A gate is stored with the weights it judges. Lip-sync is the correlation of the lip opening that a face mesh sees with
the opening that was meant; its ceiling is the same measure on the renders themselves.
"""

import json
import logging
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

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
from gwm.metrics.judge import Judge, means
from gwm.metrics.lip_sync import moves
from gwm.no_text import save_no_text
from gwm.weights import save_weights, write_json
from train.generate import Played

log = logging.getLogger(__name__)


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
    """Means over clips of what a stage made of them, and the standard error of the lip-sync's: it differs much between
    clips of seconds, and a few of them tell little."""
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
    synced = [row["lip_sync"] for row in rows if "lip_sync" in row]
    error = {"lip_sync_error": float(np.std(synced, ddof=1) / len(synced) ** 0.5)} if len(synced) > 1 else {}
    return means(rows) | error


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
    """Means of a model, ceilings on renders, and what of its lip-sync is left with swapped voices."""
    chosen = held_out(data.shards, data.resolution, clips)
    if not chosen:
        return {"clips": 0}
    judge = Judge(thorough=False)
    played = stage.decode(model, chosen, data, batch_size=batch_size, swap_voices=False)
    chunk = {"chunk_frames": border_frames(facts, len(played[0][0]))}
    renders = [clip.frames[s : s + len(f)] for f, s, clip in zip(*played, chosen, strict=True)]
    gate: dict[str, Any] = {"clips": len(chosen), **measure(judge, played, chosen, **chunk)}
    ceiling = measure(judge, (renders, played[1]), chosen, **chunk)
    gate |= {f"{name}_ceiling": ceiling[name] for name in ("lip_sync", "border_flicker")}
    gate["lip_sync_of_ceiling"] = gate["lip_sync"] / max(ceiling["lip_sync"], 1e-6)
    if stage.hears:
        swapped = stage.decode(model, chosen, data, batch_size=batch_size, swap_voices=True)
        gate["lip_sync_swapped"] = measure(judge, swapped, chosen, **chunk)["lip_sync"]
    return gate | ({"skipped": judge.skipped} if judge.skipped else {})


def failures(gate: dict[str, Any], least: dict[str, float], before: dict[str, Any]) -> list[str]:
    """What a gate misses: `least` holds minima, as numbers or, for names ending in _of_before, as shares of the gate
    of the stage before. A lip-sync of which swapped voices leave more than half was never there."""
    missed = []
    if "lip_sync_swapped" in gate and gate["lip_sync_swapped"] > gate["lip_sync"] / 2:
        rule = f"must be <= {gate['lip_sync'] / 2:.3f}, half of it with the own voice"
        missed.append(f"lip_sync_swapped={gate['lip_sync_swapped']:.3f} {rule}")
    for name, minimum in least.items():
        measure_name = name.removesuffix("_of_before")
        value = gate.get(measure_name)
        if measure_name != name:
            minimum = minimum * before.get(measure_name, 0.0)
        if value is not None and value < minimum:
            error = gate.get(f"{measure_name}_error")
            spread = "" if error is None else f" +- {error:.3f}"
            missed.append(f"{measure_name}={value:.3f}{spread} must be >= {minimum:.3f}")
    return missed


def finish(
    stage: Stage, data: Any, output: Path, *, clips: int, batch_size: int, least: dict[str, float], before: str | None
) -> None:
    """Save what the next stage starts from, with its gate; a failed gate is a warning here and in the next stage."""
    model, facts = stage.weights()
    model = merged(model).eval()
    gate = judge_stage(stage, model, facts, data, clips=clips, batch_size=batch_size)
    earlier = json.loads(Path(before, "gate.json").read_text()) if before else {}
    gate["failed"] = failures(gate, least, earlier)
    if isinstance(data, LatentData) and data.no_text is not None:
        save_no_text(output / "weights", data.no_text)
    save_weights(output / "weights", model.state_dict(), gate=gate, **facts)
    report_gate(output, gate)


def report_gate(output: Path, gate: dict[str, Any]) -> None:
    """Write a judged gate where the report looks for it, and say how it went."""
    write_json(output / "gate.json", gate)
    shown = "  ".join(f"{k}={v:.3g}" for k, v in gate.items() if isinstance(v, int | float))
    log.info("gate of %s: %s", output, shown)
    if gate["failed"]:
        log.warning("gate of %s failed: %s", output, "; ".join(gate["failed"]))
