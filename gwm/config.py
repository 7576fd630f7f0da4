"""The shape of every model, as frozen dataclasses that are saved as JSON next to the weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gwm.clock import SAMPLE_RATE, SAMPLES_PER_FRAME
from gwm.condition.spec import ConditionSpec, Rate, in_order
from gwm.files.json_text import JsonConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioConfig(JsonConfig):
    """Log-mel features of one audio stream and the window of them that one latent frame sees."""

    sample_rate: int = SAMPLE_RATE
    frame_samples: int = SAMPLES_PER_FRAME  # of one pixel frame
    hops_per_frame: int = 4
    num_mels: int = 40
    left_frames: int = 4  # pixel frames seen before the latent frame's own four
    lookahead_frames: int = 4  # pixel frames seen after them: the price in latency of a mouth that opens in time

    def __post_init__(self) -> None:
        if self.frame_samples % self.hops_per_frame:
            raise ValueError(
                f"frame_samples={self.frame_samples} must be a multiple of hops_per_frame={self.hops_per_frame}."
            )
        if min(self.left_frames, self.lookahead_frames) < 0:
            raise ValueError(f"left_frames={self.left_frames}, lookahead_frames={self.lookahead_frames} must be >= 0.")

    @property
    def frame_features(self) -> int:
        """Numbers per pixel frame."""
        return self.hops_per_frame * self.num_mels

    def window_features(self, temporal_stride: int) -> int:
        """Numbers that one latent frame sees."""
        return (self.left_frames + temporal_stride + self.lookahead_frames) * self.frame_features


@dataclass(frozen=True, kw_only=True, slots=True)
class DiTConfig(JsonConfig):
    """Shape of the video DiT (Wan with optional per-frame conditions)."""

    in_channels: int = 16
    dim: int = 1536
    ffn_dim: int = 8960
    num_heads: int = 12
    num_layers: int = 30
    patch: int = 2  # patch is 1 x patch x patch
    conditions: tuple[ConditionSpec, ...] = ()  # tokens, channels, frame; in this order
    around_reference: bool = False  # the reference latent beside every frame, and its difference to x0 as the output
    place_grid: tuple[int, ...] = ()  # rows and columns of a learned embedding of each patch's place; (): rotary alone
    # Behind which layers what a second stack of blocks makes of `control_channels` is added (`gwm.control`); (): none.
    control_layers: tuple[int, ...] = ()
    control_channels: int = 0
    speech_mels: int = 40  # mel bands per hop of the speech encoder's input
    freq_dim: int = 256
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.dim % (2 * self.num_heads):
            raise ValueError(
                f"dim={self.dim} must be a multiple of 2 * num_heads={2 * self.num_heads}: RoPE rotates pairs."
            )
        if self.head_dim < 6:
            raise ValueError(f"dim / num_heads = {self.head_dim} must be >= 6: one RoPE pair for each of t, h and w.")
        layers = self.control_layers
        if list(layers) != sorted(set(layers)) or any(not 0 <= layer < self.num_layers for layer in layers):
            raise ValueError(f"control_layers={list(layers)} must be different layers of {self.num_layers}, in order.")
        if bool(layers) != bool(self.control_channels):
            raise ValueError(
                f"control_layers={list(layers)} and control_channels={self.control_channels} go together: give both."
            )
        names = [spec.name for spec in self.conditions]
        if len(set(names)) < len(names) or self.conditions != in_order(self.conditions):
            raise ValueError(f"conditions={names} must have different names, with tokens first, then channels, frame.")
        encoders = [spec.encoder for spec in self.of_rate("tokens")]
        if encoders not in ([], ["text"], ["text", "image"]):
            raise ValueError(
                f"token conditions have encoders={encoders}, must be text, or text and image: image tokens are seen by "
                "the text attention."
            )
        if len({spec.width for spec in self.conditions if spec.encoder == "speech"}) > 1:
            raise ValueError("all conditions with encoder=speech must have one width: they share the encoder.")
        if "keyframes" in [spec.encoder for spec in self.of_rate("channels")[:-1]]:
            raise ValueError(
                "encoder=keyframes must be that of one condition at most, the last of rate=channels: it is added "
                "behind what a published model has."
            )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "DiTConfig":
        parts = tuple(ConditionSpec.from_json(spec) for spec in values.get("conditions", ()))
        # The literal name: zero-argument super() does not survive slots=True.
        return JsonConfig.from_json.__func__(  # type: ignore[attr-defined]
            cls, {**values, "conditions": parts}
        )

    def of_rate(self, rate: Rate) -> tuple[ConditionSpec, ...]:
        """Conditions of a rate, in order."""
        return tuple(spec for spec in self.conditions if spec.rate == rate)

    def condition(self, name: str) -> ConditionSpec | None:
        """The declaration of a condition; None: the model does not have it."""
        return next((spec for spec in self.conditions if spec.name == name), None)

    @property
    def keyframes(self) -> ConditionSpec | None:
        """The declaration of known frames (`gwm.condition.keyframes`); None: the model takes none."""
        return next((spec for spec in self.conditions if spec.encoder == "keyframes"), None)

    def width(self, name: str) -> int:
        """Width of a condition; 0 of one that the model does not have."""
        spec = self.condition(name)
        return 0 if spec is None else spec.width

    @property
    def places(self) -> int:
        """Image tokens that have numbers of their own, of a model that takes a first and a last picture; else 0."""
        return sum(spec.places for spec in self.conditions)

    def names(self, name: str) -> tuple[str, ...]:
        """What a condition calls the numbers of a pixel frame; () where it has no names or is none."""
        spec = self.condition(name)
        return () if spec is None else spec.names

    def check_declared(self, declared: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse data whose maker declared other numbers under the name of one of these conditions.

        Raises:
            ValueError: names or kinds differ; the message has both.
        """
        for name, fields in declared.items():
            own = self.condition(name)
            for field in ("names", "kinds"):
                if own is not None and list(getattr(own, field)) != list(fields.get(field, ())):
                    raise ValueError(
                        f"condition {name}: {field}={list(getattr(own, field))} of the model must be "
                        f"{list(fields.get(field, ()))}, as the data has them, in this order. Declare them so under "
                        "model.conditions: condition.yaml beside the shards has it ready."
                    )

    @property
    def given_channels(self) -> int:
        """Channels beside the noised ones."""
        return sum(spec.width for spec in self.of_rate("channels"))

    @property
    def speech_width(self) -> int:
        """Numbers in the audio window of a latent frame; 0 of a model without speech."""
        return next((spec.width for spec in self.conditions if spec.encoder == "speech"), 0)

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def patch_features(self) -> int:
        """Numbers per token that the head predicts."""
        return self.in_channels * self.patch**2

    @property
    def input_features(self) -> int:
        """Numbers per token that are embedded: of the noised latent, of the reference, of given channels."""
        pictures = 2 if self.around_reference else 1
        return (pictures * self.in_channels + self.given_channels) * self.patch**2
