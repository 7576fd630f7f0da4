"""The end of a stage that learns a world: its weights are saved, then held-out clips are played under their actions."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import nn

from data.crops import halved
from data.manifest import read_manifest
from data.shards import Clip, decode_sample, read_samples
from gwm.lora import merged
from gwm.metrics.distance import psnr
from gwm.metrics.movement import motion_energy, sharpness
from train.gate import Stage, earlier_gate, save_then_judge

START_FRAMES = 24  # the first second: what happens later, a first error has decided


@runtime_checkable
class WorldStage(Stage, Protocol):
    """A stage whose pictures may depend on actions."""

    takes_actions: bool


def held_out_clips(data: Any, count: int) -> list[Clip]:
    """The first clips of the validation split; none where there is no such split."""
    if "val" not in read_manifest(data.shards).splits:
        return []
    clips = (halved(decode_sample(sample), data.resolution) for sample in read_samples(data.shards, "val"))
    return [clip for clip, _ in zip(clips, range(count))]


def judge_world(stage: WorldStage, model: nn.Module, data: Any, *, clips: int, batch_size: int) -> dict[str, Any]:
    """How near a model's clips are to what happened under the same actions, in the first second and to the end.

    `obeys_db` is how much nearer they are than the same model's under another clip's actions: 0 of a model that does
    not listen. `still_db` is the distance of a picture that never changes: a floor.
    """
    chosen = held_out_clips(data, clips)
    if not chosen:
        return {"clips": 0, "not_measured": ["psnr", "obeys_db"]}
    own, starts = stage.decode(model, chosen, data, batch_size=batch_size, swap_voices=False)
    true = [clip.frames[start : start + len(frames)] for clip, frames, start in zip(chosen, own, starts, strict=True)]
    still = [np.broadcast_to(clip.reference, frames.shape) for clip, frames in zip(chosen, true, strict=True)]
    gate: dict[str, Any] = {"clips": len(chosen), "psnr": _mean_psnr(own, true), "still_db": _mean_psnr(still, true)}
    gate["psnr_start"] = _mean_psnr([x[:START_FRAMES] for x in own], [x[:START_FRAMES] for x in true])
    for name, measure in (("motion", motion_energy), ("sharpness", lambda x: sharpness(x).mean())):
        gate[name] = float(np.mean([measure(x) for x in own]) / np.mean([measure(x) for x in true]))
    if stage.takes_actions:
        other, _ = stage.decode(model, chosen, data, batch_size=batch_size, swap_voices=True)
        gate["obeys_db"] = gate["psnr"] - _mean_psnr(other, true)
    return gate


def _mean_psnr(frames: list[np.ndarray], true: list[np.ndarray]) -> float:
    return float(np.mean([psnr(x, y).mean() for x, y in zip(frames, true, strict=True)]))


def finish_world(
    stage: WorldStage,
    data: Any,
    output: Path,
    *,
    clips: int,
    batch_size: int,
    minimum: dict[str, float | None],
    before: str | None,
) -> None:
    """As `train.gate.finish`, with the measures of a world."""
    model, header = stage.weights()
    model = merged(model).eval()
    save_then_judge(
        output,
        model.state_dict(),
        header,
        lambda: judge_world(stage, model, data, clips=clips, batch_size=batch_size),
        minimum=minimum,
        before=earlier_gate(before),
    )
