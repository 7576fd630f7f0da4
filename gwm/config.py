"""The shape of every model, as frozen dataclasses that are saved as JSON next to the weights."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Config = TypeVar("Config", bound="JsonConfig")  # not `Self`: beartype knows it only in classes it decorates itself


class JsonConfig:
    """JSON in, JSON out, and no unknown key ever."""

    @classmethod
    def from_json(cls: type[Config], values: Mapping[str, Any]) -> Config:
        """Build from a decoded JSON object; lists become tuples.

        Raises:
            ValueError: a key is missing or unknown; the message lists both.
        """
        known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]  # every subclass is a dataclass
        unknown = sorted(set(values) - set(known))
        missing = sorted(
            n
            for n, f in known.items()
            if n not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        )
        if unknown or missing:
            raise ValueError(
                f"{cls.__name__}: unknown keys {unknown}, missing keys {missing}; known keys are {sorted(known)}. "
                "The file was written by another version of gwm or edited by hand."
            )
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload]


@dataclass(frozen=True, kw_only=True, slots=True)
class VAEConfig(JsonConfig):
    """Shape of the streaming autoencoder: 8x8 in space, 4 in time, every latent frame is 4 pixel frames."""

    latent_channels: int = 64  # principal components of patches keep 0.93 of the lip-sync with 64, 0.67 with 32
    channels: tuple[int, ...] = (32, 64, 128)  # width at 1/2, 1/4 and 1/8 of the pixel grid
    latents_mean: tuple[float, ...] = (0.0,) * 64  # of the training data, per channel: latents leave the encoder
    latents_std: tuple[float, ...] = (1.0,) * 64  # with mean 0 and mean square 1, which the noise schedule assumes

    spatial_stride = 8
    temporal_stride = 4

    def __post_init__(self) -> None:
        if len(self.channels) != 3:
            raise ValueError(f"channels={self.channels} must have 3 entries: one width each at 1/2, 1/4 and 1/8.")
        for name in ("latents_mean", "latents_std"):
            if len(getattr(self, name)) != self.latent_channels:
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} entries, must have latent_channels={self.latent_channels}."
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioConfig(JsonConfig):
    """Log-mel features of one audio stream and the window of them that one latent frame sees."""

    sample_rate: int = 24_000
    frame_samples: int = 1_000  # one pixel frame at 24 fps
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
    given_channels: int = 0  # laid beside the noised ones, never predicted: mask and image of Wan 2.1 I2V
    dim: int = 1536
    ffn_dim: int = 8960
    num_heads: int = 12
    num_layers: int = 30
    patch: int = 2  # patch is 1 x patch x patch
    text_dim: int = 4096  # 0: no text cross-attention
    around_reference: bool = False  # the reference latent beside every frame, and its difference to x0 as the output
    place_grid: int = 0  # rows, and columns, of a learned embedding of each patch's place; 0: rotary embedding alone
    image_dim: int = 0  # width of an image encoder's tokens, seen beside the text (Wan 2.1 I2V); 0: none
    speech_dim: int = 0  # numbers in each audio stream's window of a latent frame; 0: no audio conditions
    speech_mels: int = 40  # of them per hop
    action_dim: int = 0  # numbers per latent frame of an action; 0: no actions
    freq_dim: int = 256
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.dim % (2 * self.num_heads):
            raise ValueError(
                f"dim={self.dim} must be a multiple of 2 * num_heads={2 * self.num_heads}: RoPE rotates pairs."
            )
        if self.head_dim < 6:
            raise ValueError(f"dim / num_heads = {self.head_dim} must be >= 6: one RoPE pair for each of t, h and w.")
        if self.image_dim and not self.text_dim:
            raise ValueError(
                f"image_dim={self.image_dim} must be 0 with text_dim=0: image tokens are seen by the text attention."
            )

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
