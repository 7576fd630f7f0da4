"""The frozen speech encoder of the video model."""

import pytest
import torch

from gwm.block import MaskedClip
from gwm.condition.speech_encoder import FEATURES, SpeechEncoder
from tests.tiny import AUDIO, DIT, SPEECH, latents, speech, tiny_dit


def test_features_have_one_scale_and_each_window_its_own():
    """Frames are heard alone: a stream computed chunk by chunk equals the whole."""
    encoder = SpeechEncoder(SPEECH, AUDIO.num_mels)
    windows = torch.randn(2, 5, SPEECH)
    heard = encoder(windows)
    assert heard.shape == (2, 5, encoder.features)
    assert torch.allclose(heard[..., :FEATURES].square().mean(-1), torch.ones(2, 5), atol=0.02)
    assert torch.allclose(encoder(windows[:, 3:4]), heard[:, 3:4], atol=1e-6)


def test_loudness_survives_what_the_ear_makes_of_it():
    encoder = SpeechEncoder(SPEECH, AUDIO.num_mels)
    windows = torch.randn(1, 1, SPEECH)
    assert torch.allclose(encoder(windows + 0.5)[..., FEATURES:], encoder(windows)[..., FEATURES:] + 0.5, atol=1e-6)


def test_a_window_of_broken_steps_is_refused():
    with pytest.raises(ValueError, match="speech_dim=37 must be a multiple of 4 hops"):
        SpeechEncoder(37, 3)


def test_video_training_leaves_the_ear_alone():
    model = tiny_dit()
    x, condition = latents(2), speech(2)
    prediction = model(
        x, torch.full((2, 2), 0.5), condition, positions=torch.arange(2), context=MaskedClip(None), reference=x[:, :1]
    )
    prediction.velocity.square().mean().backward()
    assert DIT.speech_width and model.speech_encoder is not None
    assert all(p.grad is not None for p in model.frame_embeddings["agent"].parameters())
    assert all(p.grad is None for p in model.speech_encoder.parameters())
