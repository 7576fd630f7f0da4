"""The gate of stages that learn a world: held-out clips are played under their actions, and under others'."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import nn

from gwm.metrics.distance import psnr
from gwm.metrics.movement import motion_energy, sharpness
from gwm.weights import WeightsHeader
from train.gate import Stage, held_out

START_FRAMES = 24  # the first second: what happens later, a first error has decided


@runtime_checkable
class WorldStage(Stage, Protocol):
    """A stage whose pictures may depend on actions."""

    takes_actions: bool


def judge_world(
    stage: WorldStage, model: nn.Module, _header: WeightsHeader, data: Any, *, clips: int, batch_size: int
) -> dict[str, Any]:
    """How near a model's clips are to what happened under the same actions, in the first second and to the end.

    `obeys_db` is how much nearer they are than the same model's under another clip's actions: 0 of a model that does
    not listen. `still_db` is the distance of a picture that never changes: a floor.
    """
    chosen = held_out(data.shards, data.resolution, clips)
    if not chosen:
        return {"clips": 0, "not_measured": ["psnr", "obeys_db"]}
    own, starts = stage.decode(model, chosen, data, batch_size=batch_size, swap_voices=False)
    true = [clip.frames[start : start + len(frames)] for clip, frames, start in zip(chosen, own, starts, strict=True)]
    still = [np.broadcast_to(clip.reference, frames.shape) for clip, frames in zip(chosen, true, strict=True)]
    gate: dict[str, Any] = {"clips": len(chosen), "psnr": _mean_psnr(own, true), "still_db": _mean_psnr(still, true)}
    gate["psnr_start"] = _mean_psnr([x[:START_FRAMES] for x in own], [x[:START_FRAMES] for x in true])
    for name, measure in (("motion", motion_energy), ("sharpness", lambda x: sharpness(x).mean())):
        gate[name] = float(np.mean([measure(x) for x in own]) / np.mean([measure(x) for x in true]))
    if stage.takes_actions and len(chosen) > 1:
        other, _ = stage.decode(model, chosen, data, batch_size=batch_size, swap_voices=True)
        gate["obeys_db"] = gate["psnr"] - _mean_psnr(other, true)
    return gate


def _mean_psnr(frames: list[np.ndarray], true: list[np.ndarray]) -> float:
    return float(np.mean([psnr(x, y).mean() for x, y in zip(frames, true, strict=True)]))
