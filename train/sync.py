"""The judge of lip-sync: a network that decides which mouth belongs to which voice, by contrast with other moments."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from data.mouths import Mouth, MouthBatch, MouthData
from gwm.config import AudioConfig
from gwm.metrics.statistics import auc
from gwm.metrics.sync_net import KIND, MAX_LAG, SyncNet, embeddings, lag_distance, sync_score
from train.gate import save_then_judge
from train.learner import Learner

TEMPERATURE = 0.07
NEAR_FRAMES = 2  # windows this close in a clip show nearly the same, and are neither right nor wrong
MIN_SHIFT = 5  # frames; a smaller one is hard to see for people too (ITU-R BT.1359: -125 to +45 ms)


def contrast(
    mouths: Float[Tensor, "n w e"], voices: Float[Tensor, "n w e"], ignored: Bool[Tensor, "l l"]
) -> Float[Tensor, ""]:
    """Cross-entropy of finding the own voice among all windows' voices, and the own mouth among all mouths.

    Source: van den Oord et al. 2018, arXiv:1807.03748, Eq. 4, in both directions.
    """
    logits = mouths.flatten(0, 1) @ voices.flatten(0, 1).T / TEMPERATURE
    logits = logits.masked_fill(ignored, float("-inf"))
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def neighbours(starts: Tensor) -> Bool[Tensor, "l l"]:
    """Pairs of different windows of one clip that nearly show the same."""
    clip = torch.arange(len(starts), device=starts.device).repeat_interleave(starts.shape[1])
    first = starts.flatten()
    near = (first[:, None] - first).abs() <= NEAR_FRAMES
    other = ~torch.eye(len(first), dtype=torch.bool, device=starts.device)
    return (clip[:, None] == clip) & near & other


class SyncStage(L.LightningModule):
    """Train the lip-sync network of the metrics. No other stage needs it."""

    def __init__(self, *, audio: AudioConfig, network: partial[Learner[SyncNet]]) -> None:
        super().__init__()
        self.network = network(SyncNet(audio))

    def training_step(self, batch: MouthBatch, batch_idx: int) -> Float[Tensor, ""]:
        net, shape = self.network.model, batch.mouths.shape[:2]
        mouths = net.embed_mouths(batch.mouths.flatten(0, 1)).unflatten(0, shape)
        voices = net.embed_voice(batch.voices.flatten(0, 1)).unflatten(0, shape)
        loss = contrast(mouths, voices, neighbours(batch.starts))
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):  # Lightning's own union of a dozen types
        return self.network.optimizers()


@torch.no_grad()
def judge_sync(net: SyncNet, clips: list[Mouth]) -> dict[str, Any]:
    """How well matched sound and sound shifted by 5 to 15 frames are separated: areas under the ROC curve, of whole
    clips and of single windows of 0.2 s; and how often the lag of a clip is found to a frame."""
    if not clips:
        return {"clips": 0, "not_measured": ["auc", "auc_window", "lag_found"]}
    shifts = [lag for lag in range(-MAX_LAG, MAX_LAG + 1) if abs(lag) >= MIN_SHIFT]
    matched, shifted, matched_windows, shifted_windows, lags = [], [], [], [], []
    for clip in clips:
        mouths, voices = embeddings(net, clip.middle, clip.agent)
        matched.append(-lag_distance(mouths, voices, 0))
        shifted += [-lag_distance(mouths, voices, shift) for shift in shifts]
        matched_windows.append((mouths * voices).sum(1))
        shifted_windows += [(mouths[MIN_SHIFT:] * voices[:-MIN_SHIFT]).sum(1)]
        lags.append(sync_score(net, clip.middle, clip.agent).lag_frames)
    return {
        "clips": len(clips),
        "auc": auc(np.array(matched), np.array(shifted)),
        "auc_window": auc(torch.cat(matched_windows).numpy(), torch.cat(shifted_windows).numpy()),
        "lag_found": float(np.mean(np.abs(lags) <= 1)),
    }


def finish_sync(stage: SyncStage, data: MouthData, output: Path, *, split: str, minimum: dict[str, float]) -> None:
    """Save the network, then judge it."""
    net = stage.network.ema_model.eval()
    facts: dict[str, Any] = {"kind": KIND, "config": net.audio.to_json()}
    save_then_judge(
        output, net.state_dict(), lambda: judge_sync(net, data.held_out(split)), minimum=minimum, before={}, **facts
    )
