"""What the model receives besides latents: text tokens and the two audio streams."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Conditions of the latent frames of one forward pass; None where the model has no such condition.

    Zeros in a speech stream mean "not given" (dropped for guidance, or the reference image); silence is not zero.
    """

    agent: Float[Tensor, "b f k"] | None = None  # windows of the character's own voice
    user: Float[Tensor, "b f k"] | None = None  # windows of the other side's voice: what makes a listener nod
    text: Float[Tensor, "b s t"] | None = None

    def frames(self, part: slice) -> "Condition":
        """The same conditions for a slice of the latent frames."""
        return Condition(agent=_map(self.agent, part), user=_map(self.user, part), text=self.text)

    def after_reference(self) -> "Condition":
        """Prepend the reference image's frame, which hears nothing."""
        return Condition(agent=_silent_frame(self.agent), user=_silent_frame(self.user), text=self.text)

    def repeat_clip(self, first_frames: int) -> "Condition":
        """The conditions of [clean clip | noised clip without its first frames], for teacher forcing."""
        return Condition(agent=_again(self.agent, first_frames), user=_again(self.user, first_frames), text=self.text)

    def without_agent(self, dropped: Bool[Tensor, "b"] | None = None) -> "Condition":
        """Drop the agent's voice where `dropped`, or everywhere: the unconditional branch of guidance."""
        if self.agent is None:
            return self
        keep = 0.0 if dropped is None else (~dropped)[:, None, None].to(self.agent.dtype)
        return Condition(agent=self.agent * keep, user=self.user, text=self.text)


def _map(stream: Tensor | None, part: slice) -> Tensor | None:
    return None if stream is None else stream[:, part]


def _silent_frame(stream: Tensor | None) -> Tensor | None:
    if stream is None:
        return None
    return torch.cat([stream.new_zeros(stream.shape[0], 1, stream.shape[2]), stream], dim=1)


def _again(stream: Tensor | None, first_frames: int) -> Tensor | None:
    return None if stream is None else torch.cat([stream, stream[:, first_frames:]], dim=1)
