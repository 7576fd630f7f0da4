"""A live stream: two voices in, pixels out, chunk by chunk, with the same sampler as in training."""

import time
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from gwm.condition.audio import chunk_windows, continued_features, history_samples
from gwm.condition.inputs import Condition
from gwm.pixels import to_float, to_uint8
from gwm.rollout import Rollout
from serve.artifact import Artifact


class Engine:
    """`start` with a portrait, then `push` sound as it comes and `step` while `ready`; `finish` at the end.

    A chunk is ready when the sound of its own frames and of the declared lookahead is there. Before the stream there
    is silence. Pixels depend on artifact, seed, portrait and sound, and not on how the sound was cut into pushes.
    """

    def __init__(self, artifact: Artifact, *, seed: int) -> None:
        self.contract, self.vae, self.seed = artifact.contract, artifact.vae, seed
        self.rollout = Rollout(artifact.dit, artifact.contract)
        audio = self.contract.audio
        self.past_samples = history_samples(audio) + audio.left_frames * audio.frame_samples
        self.chunk_samples = self.contract.chunk_pixel_frames * audio.frame_samples
        self.lookahead_samples = audio.lookahead_frames * audio.frame_samples
        self.heard = self._silence()  # both voices, from the start of the next chunk's left context
        self.vae_state: tuple[Tensor, ...] | None = None

    @torch.no_grad()
    def start(self, portrait: UInt8[np.ndarray, "h w 3"]) -> None:
        """Forget everything and show this face.

        Raises:
            ValueError: the portrait is not square in the artifact's resolution.
        """
        height, width, side = *portrait.shape[:2], self.contract.resolution
        if (height, width) != (side, side):
            raise ValueError(
                f"portrait of {height}x{width} px must be {side}x{side}, as the artifact was trained. Cut it out with "
                "gwm.face.crop_to_face."
            )
        reference = self.vae.encode_image(to_float(portrait)[None].to(self.device))
        self.heard, self.vae_state = self._silence(), self.vae.state_after(reference)
        nothing = reference.new_zeros(1, 0, self.contract.dit.speech_dim)
        self.rollout.start(reference, Condition(agent=nothing, user=nothing), seed=self.seed)

    def push(self, agent: Float[np.ndarray, " t"], user: Float[np.ndarray, " t_user"]) -> None:
        """Append what the character says and what it hears: any number of samples, the same of both.

        Raises:
            ValueError: the streams differ in length.
            RuntimeError: the engine was not started.
        """
        if not self.rollout.frame:
            raise RuntimeError("the engine must be started before sound is pushed: call start with a portrait.")
        if len(agent) != len(user):
            raise ValueError(f"agent has {len(agent)} samples and user {len(user)}; they must have the same number.")
        self.heard = torch.cat([self.heard, torch.from_numpy(np.stack([agent, user])).float()], dim=1)

    @property
    def waiting_samples(self) -> int:
        """Samples of each voice that were pushed and not shown yet."""
        return self.heard.shape[1] - self.past_samples

    @property
    def ready(self) -> bool:
        return self.waiting_samples >= self.chunk_samples + self.lookahead_samples

    @torch.no_grad()
    def step(self) -> UInt8[np.ndarray, "f h w 3"]:
        """The next chunk's pixel frames.

        Raises:
            RuntimeError: the engine is not `ready`.
        """
        if not self.ready:
            raise RuntimeError(
                f"{self.waiting_samples} samples are waiting, must be {self.chunk_samples} of the chunk and "
                f"{self.lookahead_samples} of lookahead. Push more, or finish."
            )
        latents = self.rollout.step(self._condition())
        self.heard = self.heard[:, self.chunk_samples :]
        pixel_frames, self.vae_state = self.vae.decode(latents, self.vae_state)
        return to_uint8(pixel_frames[0])

    def finish(self) -> None:
        """End the sound with the silence that makes every pushed sample part of a ready chunk."""
        chunks = -(-self.waiting_samples // self.chunk_samples)
        wanted = chunks * self.chunk_samples + self.lookahead_samples
        self.heard = F.pad(self.heard, (0, wanted - self.waiting_samples))

    def stream(
        self, portrait: UInt8[np.ndarray, "h w 3"], agent: Float[np.ndarray, " t"], user: Float[np.ndarray, " t_user"]
    ) -> Iterator[tuple[UInt8[np.ndarray, "f h w 3"], float]]:
        """Frames of a whole recording chunk by chunk, with the milliseconds each took; the portrait counts in the
        first. The last chunk ends with the frame in which the sound ends.

        Raises:
            ValueError: there is no sound, or as `start` and `push` do.
        """
        if not len(agent):
            raise ValueError("agent has 0 samples, must have at least one: without sound there is nothing to show.")
        left = -(-len(agent) // self.contract.audio.frame_samples)
        begin = time.perf_counter()
        self.start(portrait)
        self.push(agent, user)
        self.finish()
        while left > 0:
            frames = self.step()
            yield frames[:left], 1000 * (time.perf_counter() - begin)
            left -= len(frames)
            begin = time.perf_counter()

    def play(
        self, portrait: UInt8[np.ndarray, "h w 3"], agent: Float[np.ndarray, " t"], user: Float[np.ndarray, " t_user"]
    ) -> tuple[UInt8[np.ndarray, "f h w 3"], list[float]]:
        """All frames of `stream`, and the milliseconds of its chunks."""
        frames, times = zip(*self.stream(portrait, agent, user), strict=True)
        return np.concatenate(frames), list(times)

    @property
    def device(self) -> torch.device:
        return self.rollout.cache.k.device

    def _silence(self) -> Float[Tensor, "2 t"]:
        return torch.zeros(2, self.past_samples)

    def _condition(self) -> Condition:
        """What the latent frames of the next chunk hear."""
        samples = self.heard[:, : self.past_samples + self.chunk_samples + self.lookahead_samples]
        audio, stride = self.contract.audio, self.contract.vae.temporal_stride
        windows = chunk_windows(continued_features(samples, audio), audio, temporal_stride=stride)
        agent, user = windows.to(self.device)[:, None]
        return Condition(agent=agent, user=user)
