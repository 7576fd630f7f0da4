"""Windows of speech and the visemes that belong to them."""

import numpy as np
import torch

from data.speech.dialogue import converse
from data.speech_batches import VoiceData, voice
from gwm.config import AudioConfig


def test_a_voice_is_a_function_of_its_seed():
    how = {"num_frames": 24, "split": "train", "audio": AudioConfig()}
    windows, visemes = voice((3, 1), **how)
    again, _ = voice((3, 1), **how)
    other, _ = voice((3, 2), **how)
    assert torch.equal(windows, again) and not torch.equal(windows, other)
    assert windows.shape == (4, AudioConfig().window_features(4)) and visemes.shape[:2] == (4, 4)
    assert torch.allclose(visemes.sum(-1), torch.ones(4, 4), atol=1e-3)


def test_visemes_are_those_of_the_windows_own_frames():
    """Speech that starts inside the stretch: lips are at rest in frames long before its first sound, and move after."""
    audio = AudioConfig()
    seeds = ((0, k) for k in range(400))
    seed = next(s for s in seeds if _first_sound(s) in range(60, 80))
    windows, visemes = voice(seed, num_frames=96, split="train", audio=audio)
    moving = (visemes - visemes[0, 0]).abs().sum(-1).flatten() > 0.5
    first = int(moving.int().argmax()) + audio.left_frames
    assert abs(first - _first_sound(seed)) <= 8  # a mouth moves up to 0.3 s before its sound
    assert windows.std() > 0


def _first_sound(seed: tuple[int, int]) -> int | None:
    dialogue = converse(np.random.default_rng(seed), num_frames=96, split="train")
    speaking = np.flatnonzero(dialogue.speaking("agent"))
    return int(speaking[0]) if len(speaking) else None


def test_held_out_voices_say_other_sentences():
    data = VoiceData(num_frames=24, audio=AudioConfig(), batch_size=1, num_workers=0, seed=0)
    batch = data.held_out(2)
    train, _ = voice((0, 0), num_frames=24, split="train", audio=AudioConfig())
    assert batch.windows.shape[0] == 2
    assert not torch.equal(batch.windows[0], train)
