"""The speech encoder is judged by the jaw that it reads from the voice."""

from functools import partial
from pathlib import Path

import pytest
import torch

from data.speech.visemes import viseme_actions
from data.speech_batches import VoiceBatch
from gwm.condition.speech_encoder import SpeechEncoder
from gwm.config import AudioConfig
from gwm.weights import save_weights
from tests.tiny import AUDIO, SPEECH, tiny_dit
from train.learner import Learner
from train.networks import load_speech
from train.speech import SpeechStage, VisemeClassifier, judge_speech

VISEMES = len(viseme_actions())


class Oracle(VisemeClassifier):
    """Hears the visemes that are written into its windows."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return windows[..., : 4 * VISEMES].unflatten(-1, (4, VISEMES)).log()


def voices(shift: int = 0) -> VoiceBatch:
    visemes = torch.randn(3, 6, 4, VISEMES).mul(2).softmax(-1)
    return VoiceBatch(visemes.roll(shift, dims=1).flatten(2), visemes, step=0)


def test_the_gate_tells_a_perfect_ear_from_a_late_one():
    assert judge_speech(Oracle(AUDIO), voices())["jaw"] == pytest.approx(1, abs=1e-4)
    assert judge_speech(Oracle(AUDIO), voices(shift=1))["jaw"] < 0.5


def test_silent_clips_do_not_count():
    batch = voices()
    batch.visemes[1:] = batch.visemes[0, 0, 0]
    assert judge_speech(Oracle(AUDIO), batch)["clips"] == 1


def test_training_lowers_the_loss():
    torch.manual_seed(0)
    adam = partial(torch.optim.AdamW, lr=1e-2)
    stage = SpeechStage(
        audio=AUDIO, network=partial(Learner, optimizer=adam, schedule_steps=60, warmup_steps=1, ema_decay=0.9)
    )
    stage.log = lambda *_, **__: None  # type: ignore[method-assign]  # there is no trainer
    visemes = torch.eye(VISEMES)[torch.randint(VISEMES, (2, 3, 4))]
    batch = VoiceBatch(torch.randn(2, 3, SPEECH), visemes, step=0)
    optimizer = stage.configure_optimizers()["optimizer"]
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = stage.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_an_ear_of_other_audio_is_refused(tmp_path: Path):
    encoder = SpeechEncoder(SPEECH, AUDIO.num_mels)
    save_weights(tmp_path, encoder.state_dict(), kind="speech", config=AudioConfig().to_json(), gate={})
    with pytest.raises(ValueError, match="was trained on"):
        load_speech(tmp_path, tiny_dit(), AUDIO)
    save_weights(tmp_path, encoder.state_dict(), kind="speech", config=AUDIO.to_json(), gate={})
    model = tiny_dit()
    load_speech(tmp_path, model, AUDIO)
    assert model.speech_encoder is not None
    assert torch.equal(model.speech_encoder.layers[0].weight, encoder.layers[0].weight)
