"""Values of a model's conditions for the latent frames of one forward pass."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gwm.config import DiTConfig
from gwm.no_text import padded_text


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Conditions by name, apart by rate (`gwm.condition.spec`). A model without a condition has no such name.

    Zeros of a frame condition mean "not given" (dropped for guidance, or the reference image); silence is not zero.
    """

    frame: Mapping[str, Float[Tensor, "b f _"]] = field(default_factory=dict)
    channels: Mapping[str, Float[Tensor, "b f _ h w"]] = field(default_factory=dict)
    reference_channels: Mapping[str, Float[Tensor, "b 1 _ h w"]] = field(
        default_factory=dict
    )  # of the reference image's frame
    tokens: Mapping[str, Float[Tensor, "b _ _"]] = field(default_factory=dict)
    nothing: Mapping[str, Float[Tensor, "_ _"]] = field(default_factory=dict)  # tokens that stand for dropped ones
    # Of latents that a caller decides in part: `value`, as far as `share` is 1 and not 0 (`gwm.rollout`).
    override: Mapping[str, Float[Tensor, "b f c h w"]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        """Values of a condition by its name, whatever its rate.

        Raises:
            ValueError: there is no condition of this name.
        """
        for values in (self.frame, self.channels, self.tokens):
            if name in values:
                return values[name]
        raise ValueError(
            f"condition {name!r} is not given, but the model was built with it; given are {sorted(self.names)}. Pass "
            "it; zeros drop a condition."
        )

    @property
    def names(self) -> list[str]:
        return [*self.frame, *self.channels, *self.tokens]

    def frames(self, part: slice) -> "Conditions":
        """The same conditions for a slice of the latent frames."""
        return self.per_frame(lambda stream: stream[:, part])

    def of_chunk(self) -> "Conditions":
        """The conditions without tokens, which are the same in every chunk."""
        return dataclasses.replace(self, tokens={})

    def only_tokens(self) -> "Conditions":
        return Conditions(tokens=self.tokens)

    def after_reference(self) -> "Conditions":
        """Prepend the reference image's frame, whose frame conditions are not given and which has its own channels.

        Raises:
            ValueError: there are channels, but not those of the reference image.
        """
        missing = sorted(set(self.channels) - set(self.reference_channels))
        if missing:
            raise ValueError(
                f"reference_channels has no {missing}, must have them beside channels: the reference's frame needs "
                "them too."
            )
        channels = {name: torch.cat([self.reference_channels[name], own], 1) for name, own in self.channels.items()}
        frame = {name: _after_zeros(stream) for name, stream in self.frame.items()}
        return dataclasses.replace(self, frame=frame, channels=channels, override={})

    def repeat_clip(self, first_frames: int) -> "Conditions":
        """The conditions of [clean clip | noised clip without its first frames], for teacher forcing."""
        return self.per_frame(lambda stream: torch.cat([stream, stream[:, first_frames:]], dim=1))

    def dropped(self, name: str, where: Bool[Tensor, "b"] | None = None) -> "Conditions":
        """Without a condition where `where`, or everywhere: zeros of a frame condition or of channels, and `nothing`
        with zeros behind it of tokens, as a clip without a caption has. Zeros alone would be a text that no training
        saw.

        Raises:
            ValueError: there are tokens of this name, but nothing to put in their place.
        """
        if name in self.frame:
            stream = self.frame[name]
            keep = 0.0 if where is None else (~where)[:, None, None].to(stream.dtype)
            return dataclasses.replace(self, frame={**self.frame, name: stream * keep})
        if name in self.channels:
            planes = self.channels[name]
            keep = 0.0 if where is None else (~where)[:, None, None, None, None].to(planes.dtype)
            return dataclasses.replace(self, channels={**self.channels, name: planes * keep})
        if name not in self.tokens:
            return self
        tokens = self.tokens[name]
        if name not in self.nothing:
            raise ValueError(
                f"nothing has no {name!r}, must have the tokens of the empty one: a condition is dropped to what "
                "training dropped it to. Data keeps them beside the latents; pairs of an older stage=ode_pairs must be "
                "made again."
            )
        nothing = padded_text(self.nothing[name].to(tokens), tokens.shape[1])[None]
        if where is None:
            where = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
        return self.with_tokens(**{name: torch.where(where[:, None, None], nothing, tokens)})

    def with_tokens(self, **tokens: Float[Tensor, "b _ _"]) -> "Conditions":
        """The same with these tokens."""
        return dataclasses.replace(self, tokens={**self.tokens, **tokens})

    def per_frame(self, change: Callable[[Tensor], Tensor]) -> "Conditions":
        """Apply `change` to every condition that belongs to latent frames."""
        groups = self.frame, self.channels, self.override
        frame, channels, override = ({n: change(x) for n, x in v.items()} for v in groups)
        return dataclasses.replace(self, frame=frame, channels=channels, override=override)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Conditions":
        """Apply `change` to every tensor."""
        groups = {group: {n: change(x) for n, x in values.items()} for group, values in vars(self).items()}
        return Conditions(**groups)

    def flat(self) -> dict[str, Tensor]:
        """All tensors by group and name, such as `frame.agent`: to be stored, sent or compared."""
        return {f"{group}.{name}": x for group, values in vars(self).items() for name, x in values.items()}

    @classmethod
    def from_flat(cls, tensors: Mapping[str, Tensor]) -> "Conditions":
        """Inverse of `flat`."""
        groups: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            group, name = key.split(".", 1)
            groups.setdefault(group, {})[name] = tensor
        return cls(**groups)


def joined(first: Conditions, second: Conditions) -> Conditions:
    """Frame conditions of two stretches of latent frames, one after the other; tokens are those of the second."""
    frame = {n: torch.cat([x, second.frame[n]], dim=1) for n, x in first.frame.items() if n in second.frame}
    return dataclasses.replace(second, frame=frame, channels={}, reference_channels={})


def nothing_given(config: DiTConfig, num_frames: int, *, like: Tensor) -> Conditions:
    """Frame conditions that say "not given", with the device and precision of `like`."""
    return Conditions(frame={spec.name: like.new_zeros(1, num_frames, spec.width) for spec in config.of_rate("frame")})


def _after_zeros(stream: Tensor) -> Tensor:
    return torch.cat([stream.new_zeros(stream.shape[0], 1, *stream.shape[2:]), stream], dim=1)
