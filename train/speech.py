"""The speech encoder: a small classifier of visemes from speech, trained once and frozen in every video model."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.actions import index
from data.speech.visemes import viseme_actions
from data.speech_batches import STRIDE, VoiceBatch, VoiceData
from gwm.condition.speech_encoder import SpeechEncoder
from gwm.config import AudioConfig
from gwm.metrics.lip_sync import correlation, moves
from train.gate import save_then_judge
from train.learner import Learner


class VisemeClassifier(nn.Module):
    """The encoder under training with one linear layer behind it."""

    def __init__(self, audio: AudioConfig) -> None:
        super().__init__()
        self.encoder = SpeechEncoder(audio.window_features(STRIDE), audio.num_mels)
        self.head = nn.Linear(self.encoder.features, STRIDE * len(viseme_actions()))

    def forward(self, windows: Float[Tensor, "b f k"]) -> Float[Tensor, "b f 4 v"]:
        """Logits of each pixel frame's visemes."""
        return self.head(self.encoder(windows)).unflatten(-1, (STRIDE, -1))


class SpeechStage(L.LightningModule):
    """Cross-entropy against the viseme weights that move the mouths of the embedded data."""

    def __init__(self, *, audio: AudioConfig, network: partial[Learner[VisemeClassifier]]) -> None:
        super().__init__()
        self.audio = audio
        self.network = network(VisemeClassifier(audio))

    def training_step(self, batch: VoiceBatch, batch_idx: int) -> Float[Tensor, ""]:
        logits = self.network.model(batch.windows)
        loss = F.cross_entropy(logits.flatten(0, 2), batch.visemes.flatten(0, 2))
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):  # Lightning's own union of a dozen types
        return self.network.optimizers()


def jaw(visemes: Float[Tensor, "f 4 v"]) -> Float[np.ndarray, " t"]:
    """Opening of the jaw in each pixel frame."""
    return visemes.flatten(0, 1).numpy() @ viseme_actions()[:, index("jawOpen")]


@torch.no_grad()
def judge_speech(model: VisemeClassifier, voices: VoiceBatch) -> dict[str, Any]:
    """Mean correlation of the predicted jaw opening with the true one, over clips in which somebody speaks."""
    heard, meant = model(voices.windows).softmax(dim=-1), voices.visemes
    pairs = [(jaw(h), jaw(m)) for h, m in zip(heard, meant, strict=True)]
    scores = [correlation(h, m) for h, m in pairs if moves(m)]
    if not scores:
        return {"clips": 0, "not_measured": ["jaw"]}
    return {"clips": len(scores), "jaw": float(np.mean(scores))}


def finish_speech(stage: SpeechStage, data: VoiceData, output: Path, *, clips: int, minimum: dict[str, float]) -> None:
    """Save the encoder, then judge it."""
    model = stage.network.ema_model.eval()
    facts: dict[str, Any] = {"kind": "speech", "config": stage.audio.to_json()}
    save_then_judge(
        output,
        model.encoder.state_dict(),
        lambda: judge_speech(model, data.held_out(clips)),
        minimum=minimum,
        before={},
        **facts,
    )
