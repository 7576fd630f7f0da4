"""Speech without pictures, made as it is needed: the training data of the speech encoder."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.performance import balance
from data.speech.dialogue import converse
from data.speech.sentences import Split
from data.speech.visemes import mouth_visemes
from data.steps import StepData
from gwm.clock import FPS
from gwm.condition.audio import chunk_windows, frame_features
from gwm.config import AudioConfig

STRIDE = 4  # pixel frames of a latent frame
Sample = tuple[Float[Tensor, "f k"], Float[Tensor, "f 4 v"]]


@dataclass
class VoiceBatch:
    windows: Float[Tensor, "b f k"]  # log-mel, the audio window of a latent frame
    visemes: Float[Tensor, "b f 4 v"]  # weights of each of its pixel frames, summing to 1
    step: int


def voice(seed: tuple[int, ...], *, num_frames: int, split: Split, audio: AudioConfig) -> Sample:
    """Windows of one agent's voice whose context lies inside the stretch, and the visemes of their pixel frames."""
    rng = np.random.default_rng(seed)
    dialogue = converse(rng, num_frames=num_frames, split=split)
    samples = torch.from_numpy(balance(rng, dialogue.audio("agent")))[None]
    windows = chunk_windows(frame_features(samples, audio), audio, temporal_stride=STRIDE)[0]
    end = dialogue.first_frame + num_frames
    visemes = mouth_visemes(dialogue.phonemes("agent"), num_frames=end, fps=FPS)[dialogue.first_frame :]
    own = torch.from_numpy(visemes)[audio.left_frames :][: STRIDE * len(windows)]
    return windows, own.unflatten(0, (-1, STRIDE))


class Voices(Dataset[tuple[int, Sample]]):
    """Endless voices; none occurs twice."""

    def __init__(self, *, num_frames: int, audio: AudioConfig, seed: int) -> None:
        self.num_frames, self.audio, self.seed = num_frames, audio, seed

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[int, Sample]:
        step, slot, _ = key
        return step, voice((self.seed, step, slot), num_frames=self.num_frames, split="train", audio=self.audio)


def voice_batch(items: list[tuple[int, Sample]]) -> VoiceBatch:
    windows, visemes = (torch.stack(parts) for parts in zip(*(sample for _, sample in items), strict=True))
    return VoiceBatch(windows, visemes, step=items[0][0])


class VoiceData(StepData):
    """Voices for `stage=speech`; needs no shards."""

    def __init__(
        self,
        *,
        num_frames: int,
        audio: AudioConfig,
        batch_size: int,
        num_workers: int,
        seed: int,
        device_batch: int | None = None,
    ) -> None:
        super().__init__(
            shards="", batch_size=batch_size, num_workers=num_workers, seed=seed, device_batch=device_batch
        )
        self.num_frames, self.audio = num_frames, audio

    def train_dataloader(self) -> DataLoader[Any]:
        voices = Voices(num_frames=self.num_frames, audio=self.audio, seed=self.seed)
        return self.loader(voices, 1, voice_batch)

    def held_out(self, count: int) -> VoiceBatch:
        """Sentences and voices that are in no training data."""
        how = {"num_frames": self.num_frames, "split": "val", "audio": self.audio}
        return voice_batch([(0, voice((self.seed, index), **how)) for index in range(count)])
