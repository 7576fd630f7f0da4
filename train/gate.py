"""The end of every stage: write the weights, then measure on people and sentences that no training saw.

A gate is stored with the weights it judges. Lip-sync is the correlation of the lip opening that a face mesh sees with
the opening that was meant; its ceiling is the same measure on the renders themselves.
"""

import logging
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8
from torch import nn

from data.pixels import halved
from data.shards import Clip, decode_sample, read_samples
from gwm.face import FaceMesh
from gwm.metrics.distance import psnr
from gwm.metrics.lip_sync import lip_opening, lip_sync, moves
from gwm.metrics.motion import motion_energy
from gwm.weights import save_weights, write_json
from train.generate import Played

log = logging.getLogger(__name__)


class Stage(Protocol):
    """What `finish` needs of a stage."""

    hears: bool  # whether its pictures depend on the voice

    def weights(self) -> tuple[nn.Module, dict[str, Any]]:
        """The trained model, and `kind`, `config` and what else belongs beside its weights."""
        ...

    def decode(self, model: Any, clips: list[Clip], data: Any, *, batch_size: int, swap_voices: bool) -> Played:
        """The stage's own version of held-out clips, as pixels; may be shorter than the clips."""
        ...


def held_out(shards: Path, resolution: int, count: int) -> list[Clip]:
    """Validation clips in which a rendered person speaks: only there is a lip-sync to measure."""
    clips = []
    for sample in read_samples(shards, "val"):
        clip = halved(decode_sample(sample), resolution)
        if clip.info["style"] == "anny" and moves(clip.truth.mouth):
            clips.append(clip)
    return clips[:count]


def measure(
    frames: list[UInt8[np.ndarray, "f h w 3"]], clips: list[Clip], starts: list[int], mesh: FaceMesh
) -> dict[str, float]:
    """Means over clips of what a stage made of them; `starts` are the clips' frames at which its versions begin."""
    rows = []
    for made, clip, start in zip(frames, clips, starts, strict=True):
        part = slice(start, start + len(made))
        sync = lip_sync(lip_opening(made, mesh), clip.truth.mouth[part])
        rows.append(
            {
                "lip_sync": sync.correlation,
                "lag_frames": float(sync.lag_frames),
                "faces_found": sync.detected,
                "psnr": float(psnr(made, clip.frames[part]).mean()),
                "motion": motion_energy(made) / max(motion_energy(clip.frames[part]), 1e-6),
            }
        )
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def judge(stage: Stage, model: nn.Module, data: Any, *, clips: int, batch_size: int) -> dict[str, Any]:
    """The gate of a model: its means, the ceiling on renders, and what is left with swapped voices."""
    chosen = held_out(data.shards, data.resolution, clips)
    if not chosen:
        return {"clips": 0}
    mesh = FaceMesh()
    made, starts = stage.decode(model, chosen, data, batch_size=batch_size, swap_voices=False)
    renders = [clip.frames[s : s + len(m)] for m, clip, s in zip(made, chosen, starts, strict=True)]
    gate = {"clips": len(chosen), **measure(made, chosen, starts, mesh)}
    gate["lip_sync_ceiling"] = measure(renders, chosen, starts, mesh)["lip_sync"]
    if stage.hears:
        swapped, _ = stage.decode(model, chosen, data, batch_size=batch_size, swap_voices=True)
        gate["lip_sync_swapped"] = measure(swapped, chosen, starts, mesh)["lip_sync"]
    return gate


def finish(stage: Stage, data: Any, output: Path, *, clips: int, batch_size: int) -> None:
    """Save what the next stage starts from, with its gate."""
    model, facts = stage.weights()
    model = model.eval()
    gate = judge(stage, model, data, clips=clips, batch_size=batch_size)
    save_weights(output / "weights", model.state_dict(), gate=gate, **facts)
    write_json(output / "gate.json", gate)
    log.info("gate of %s: %s", output, "  ".join(f"{k}={v:.3g}" for k, v in gate.items()))
