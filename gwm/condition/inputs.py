"""What the model receives besides latents: per latent frame (two voices, actions, given channels) and per clip (text,
image)."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gwm.config import DiTConfig
from gwm.no_text import padded_text


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Conditions of the latent frames of one forward pass; None where the model has no such condition.

    Zeros in a voice or an action mean "not given" (dropped for guidance, or the reference image); silence is not zero.
    """

    agent: Float[Tensor, "b f k"] | None = None  # windows of the character's own voice
    user: Float[Tensor, "b f k"] | None = None  # windows of the other side's voice: what makes a listener nod
    action: Float[Tensor, "b f a"] | None = None  # keys, camera, joint commands
    given: Float[Tensor, "b f g h w"] | None = (
        None  # channels laid beside the noised ones: mask and image of Wan 2.1 I2V
    )
    given_reference: Float[Tensor, "b 1 g h w"] | None = None  # the same of the reference image's own frame
    text: Float[Tensor, "b s t"] | None = None
    no_text: Float[Tensor, "q t"] | None = None  # what a dropped text becomes: the tokens of the empty caption
    image: Float[Tensor, "b j i"] | None = None  # tokens of an image encoder

    def frames(self, part: slice) -> "Condition":
        """The same conditions for a slice of the latent frames."""
        return self._per_frame(lambda stream: stream[:, part])

    def of_chunk(self) -> "Condition":
        """Without text and image, which are the same in every chunk."""
        return dataclasses.replace(self, text=None, image=None)

    def after_reference(self) -> "Condition":
        """Prepend the reference image's frame, which hears nothing, does nothing and has its own given channels.

        Raises:
            ValueError: there are given channels, but not those of the reference image.
        """
        given = self.given
        if given is not None:
            if self.given_reference is None:
                raise ValueError(
                    "given_reference is None, must be set with given: the reference's frame needs them too."
                )
            given = torch.cat([self.given_reference, given], dim=1)
        return dataclasses.replace(self._per_frame(_after_zeros), given=given)

    def repeat_clip(self, first_frames: int) -> "Condition":
        """The conditions of [clean clip | noised clip without its first frames], for teacher forcing."""
        return self._per_frame(lambda stream: torch.cat([stream, stream[:, first_frames:]], dim=1))

    def without_agent(self, dropped: Bool[Tensor, "b"] | None = None) -> "Condition":
        """Drop the agent's voice where `dropped`, or everywhere: the unconditional branch of guidance."""
        if self.agent is None:
            return self
        keep = 0.0 if dropped is None else (~dropped)[:, None, None].to(self.agent.dtype)
        return dataclasses.replace(self, agent=self.agent * keep)

    def without_text(self, dropped: Bool[Tensor, "b"] | None = None) -> "Condition":
        """Tell nothing where `dropped`, or everywhere: the empty caption's tokens and zeros behind them, as a clip
        without a caption has. Zeros alone would be a text that no training saw.

        Raises:
            ValueError: there is a text, but nothing to put in its place.
        """
        if self.text is None:
            return self
        if self.no_text is None:
            raise ValueError(
                "no_text is None, must be the tokens of the empty caption: a text is dropped to what training dropped "
                "it to. Data keeps them beside the latents; pairs of an older stage=ode_pairs must be made again."
            )
        nothing = padded_text(self.no_text.to(self.text), self.text.shape[1])[None]
        where = torch.ones(len(self.text), dtype=torch.bool, device=self.text.device) if dropped is None else dropped
        return dataclasses.replace(self, text=torch.where(where[:, None, None], nothing, self.text))

    def _per_frame(self, change: Callable[[Tensor], Tensor]) -> "Condition":
        streams = {"agent": self.agent, "user": self.user, "action": self.action, "given": self.given}
        changed = {name: change(stream) for name, stream in streams.items() if stream is not None}
        return dataclasses.replace(self, **changed)


def nothing_given(config: DiTConfig, num_frames: int, *, like: Tensor) -> Condition:
    """Voices and actions of frames in which a model hears and does nothing, with the device and precision of `like`."""
    voice = like.new_zeros(1, num_frames, config.speech_dim)
    action = like.new_zeros(1, num_frames, config.action_dim) if config.action_dim else None
    return Condition(agent=voice, user=voice, action=action)


def _after_zeros(stream: Tensor) -> Tensor:
    return torch.cat([stream.new_zeros(stream.shape[0], 1, *stream.shape[2:]), stream], dim=1)
