"""Inputs of the next chunk on the media clock: the sound that was pushed, and the numbers that callers set."""

import dataclasses
from collections import deque

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from gwm.condition.audio import chunk_windows, continued_features, history_samples
from gwm.condition.inputs import Conditions, nothing_given
from gwm.contract import Contract
from gwm.transfer import to_device
from serve.acts import Acts, Applied, applied_at
from serve.keyframes import Keyframes

VOICES: tuple[str, ...] = ("agent", "user")  # the conditions that sound becomes, in the order of its streams


def check_conditions(contract: Contract) -> None:
    """Refuse a model with conditions that a stream does not have.

    Raises:
        ValueError: it is given an image as tokens or as channels.
    """
    refused = ("image", "linear")  # not keyframes, which streams have
    names = [s.name for s in contract.dit.conditions if s.rate in ("tokens", "channels") and s.encoder in refused]
    if names:
        raise ValueError(
            f"conditions {names} must not be there: streams give a model its image as the first latent frame alone, "
            "and this image-to-video model also takes it as tokens and channels. Train from a text-to-video model or "
            "Wan 2.2 TI2V; a published folder is sampled as it is."
        )


class Timeline:
    """Both voices from the start of the next chunk's left context, and the numbers of its pixel frames (`acts`).

    The stream advances by the media clock, a chunk at a time. A chunk is ready when all conditions with a lookahead are
    there; a model that takes no sound is always ready. Before the stream there is silence. What was taken of `depth`
    chunks can be taken back.
    """

    def __init__(self, contract: Contract, *, like: Tensor, depth: int) -> None:
        """like: a tensor whose device and precision conditions have."""
        self.contract, self.like = contract, like
        audio = contract.audio
        self.past_samples = history_samples(audio) + audio.left_frames * audio.frame_samples
        self.chunk_samples = contract.chunk_pixel_frames * audio.frame_samples
        self.lookahead_samples = contract.lookahead_samples
        self.taken: deque[Float[Tensor, "2 t"]] = deque(maxlen=depth)
        self.acts = Acts(contract, like=like)
        self.keyframes = Keyframes(contract, like=like)
        self.start(seed=0)

    def start(self, *, seed: int) -> None:
        """A new stream: silence before it, and no number is set."""
        self.samples = torch.zeros(2, self.past_samples)
        self.taken.clear()
        self.acts.start(seed=seed)
        self.keyframes.start()
        self.num_chunks = 0  # that were taken
        self.end_chunk: int | None = None  # the first after the stream

    def push(self, agent: Float[np.ndarray, " t"], user: Float[np.ndarray, " t_user"]) -> None:
        """Append both voices, the character's and the other's.

        Raises:
            ValueError: the streams differ in length, or the model takes no sound.
        """
        if not self.contract.takes_sound:
            raise ValueError(
                f"sound of {len(agent)} samples must not be pushed: the model has no condition that comes from sound. "
                "Leave the sound out, or take one that takes sound."
            )
        if len(agent) != len(user):
            raise ValueError(f"agent has {len(agent)} samples and user {len(user)}; they must have the same number.")
        self.samples = torch.cat([self.samples, torch.from_numpy(np.stack([agent, user])).float()], dim=1)
        self.end_chunk = None

    @property
    def waiting_samples(self) -> int:
        """Samples of each voice that were pushed and not taken yet."""
        return self.samples.shape[1] - self.past_samples

    @property
    def ready(self) -> bool:
        """Whether the stream goes on, and the sound of the next chunk and of its lookahead is there."""
        if self.end_chunk is not None and self.num_chunks >= self.end_chunk:
            return False
        return not self.contract.takes_sound or self.waiting_samples >= self.chunk_samples + self.lookahead_samples

    def say(self, voice: Float[np.ndarray, " t"]) -> None:
        """In the place of the character's own sound that waits, this and silence behind it; the other voice stays."""
        waiting = self.samples[0, self.past_samples :]
        voice = voice[: len(waiting)]
        waiting[: len(voice)] = torch.from_numpy(voice)
        waiting[len(voice) :] = 0

    def finish(self, num_frames: int | None = None) -> None:
        """End the stream with the chunk of its last pixel frame, by default the frame in which the pushed sound ends.
        Missing sound is silence."""
        end = self.num_chunks + -(-self.waiting_samples // self.chunk_samples)
        self.end_chunk = end if num_frames is None else -(-num_frames // self.contract.chunk_pixel_frames)
        if self.contract.takes_sound:
            wanted = (self.end_chunk - self.num_chunks) * self.chunk_samples + self.lookahead_samples
            self.samples = F.pad(self.samples, (0, max(0, wanted - self.waiting_samples)))

    def next_chunk(self, at_s: float | None = None) -> Applied:
        """The chunk that is taken next, or the first that does not begin before `at_s`.

        Raises:
            ValueError: that chunk has been taken.
        """
        now = Applied(self.num_chunks, self.num_chunks * self.contract.chunk_ms / 1000)
        later = now if at_s is None else applied_at(self.contract, at_s)
        if later.chunk < now.chunk:
            raise ValueError(f"at_s={at_s:g} must be at least {now.media_s:g}: chunks before that have been generated.")
        return later

    def take(self) -> Conditions:
        """Conditions of the next chunk; the stream moves on by a chunk.

        Raises:
            RuntimeError: it is not `ready`.
        """
        if not self.ready:
            raise RuntimeError(
                f"{self.waiting_samples} samples are waiting, must be {self.chunk_samples} of the chunk and "
                f"{self.lookahead_samples} of lookahead, before the stream's end. Push more, or finish."
            )
        self.acts.reach(self.num_chunks)
        frame = dict(self.nothing().frame) | (self._voices() if self.contract.takes_sound else {})
        frame |= self.acts.conditions(self.num_chunks)
        self.keyframes.forget(self.num_chunks - (self.taken.maxlen or 0))
        known = self.keyframes.conditions(self.num_chunks)
        override = self.keyframes.override(self.num_chunks, self.acts.override(self.num_chunks))
        used = self.chunk_samples if self.contract.takes_sound else 0
        self.taken.append(self.samples[:, :used])
        self.samples = self.samples[:, used:]
        self.num_chunks += 1
        return dataclasses.replace(known, frame=frame, override=override)

    def rewind(self, chunks: int, *, keep_sound: bool) -> None:
        """Put back the latest `chunks`: their sound waits again, or is dropped."""
        sound = [self.taken.pop() for _ in range(chunks)][::-1]
        self.samples = torch.cat([*sound, self.samples], dim=1)
        if not keep_sound and self.contract.takes_sound:
            past, rest = self.past_samples, self.past_samples + chunks * self.chunk_samples
            self.samples = torch.cat([self.samples[:, :past], self.samples[:, rest:]], dim=1)
        self.num_chunks -= chunks
        self.acts.rewind(self.num_chunks)

    def nothing(self) -> Conditions:
        """Conditions in the shape of a chunk's, of which none is given."""
        nothing = nothing_given(self.contract.dit, self.contract.pattern.chunk_frames, like=self.like)
        keyframes = Keyframes(self.contract, like=self.like)
        override = keyframes.override(0, Acts(self.contract, like=self.like).override(0))
        return dataclasses.replace(keyframes.conditions(0), frame=nothing.frame, override=override)

    def _voices(self) -> dict[str, Float[Tensor, "1 f k"]]:
        """Windows of the next chunk's sound by the conditions that they are."""
        samples = self.samples[:, : self.past_samples + self.chunk_samples + self.lookahead_samples]
        audio, stride = self.contract.audio, self.contract.vae.temporal_stride
        windows = chunk_windows(continued_features(samples, audio), audio, temporal_stride=stride)
        voices = dict(zip(VOICES, to_device(windows, self.like.device, self.like.dtype)[:, None], strict=True))
        specs = self.contract.dit.of_rate("frame")
        return {spec.name: voices[spec.name] for spec in specs if spec.encoder == "speech"}
