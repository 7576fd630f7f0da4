"""Family `haar`: four pixel frames in, one latent frame out, and back; 8x8 pixels a cell.

Four frames are folded into channels, so that one 2-D convolution serves all four: that is what makes decoding
affordable on a CPU. They are folded as Haar wavelets over time (as in the Cosmos tokenizer, arXiv:2501.03575), with
what changes amplified over what stays: else the four would come out nearly equal, and lips are what changes. A linear
projection of 8x8 patches, which training starts at their principal components, carries most of the picture; the
convolutions add to it. Time enters the decoder through memory blocks, which see the previous latent frame's features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from gwm.autoencoders.protocol import Memory, Reference, check_no_margin
from gwm.files.json_text import JsonConfig
from gwm.media.pixels import as_bytes, as_float

# One tensor per memory block: the features of the latest latent frame, `b c h w`. Owned by the caller.
HaarState = tuple[Float[Tensor, "b _ _ _"], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class HaarConfig(JsonConfig):
    """Shape of the autoencoder: 8x8 in space, 4 in time, every latent frame is 4 pixel frames."""

    family: Literal["haar"] = "haar"
    latent_channels: int = 64  # principal components of patches keep 0.93 of the lip-sync with 64, 0.67 with 32
    channels: tuple[int, ...] = (32, 64, 128)  # width at 1/2, 1/4 and 1/8 of the pixel grid
    latents_mean: tuple[float, ...] = ()  # of the training data, per channel: latents leave the encoder with mean 0
    latents_std: tuple[float, ...] = ()  # and mean square 1, which the noise schedule assumes; (): all 0, all 1

    spatial_stride = 8
    temporal_stride = 4
    working_side = None
    controls = ()

    def margin(self, side: int) -> int:
        return 0

    def __post_init__(self) -> None:
        if len(self.channels) != 3:
            raise ValueError(f"channels={self.channels} must have 3 entries: one width each at 1/2, 1/4 and 1/8.")
        for name, value in (("latents_mean", 0.0), ("latents_std", 1.0)):
            if not getattr(self, name):  # not measured yet
                object.__setattr__(self, name, (value,) * self.latent_channels)
            if len(getattr(self, name)) != self.latent_channels:
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} entries, must have latent_channels={self.latent_channels}."
                )


_R = 2**0.5
HAAR = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [_R, -_R, 0, 0], [0, 0, _R, -_R]]) / 2  # orthonormal
CHANGE_GAIN = 4.0  # of the three bands that hold what changes; their deviation is a tenth of the first one's or less


def to_bands(pixel_frames: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b t//4 12 h w"]:
    """Packs of four frames as Haar bands over time, in channels: the mean (times 2), then three amplified changes."""
    packs = rearrange(pixel_frames, "b (f k) c h w -> b f k (c h w)", k=4)
    return rearrange(_gained(pixel_frames) @ packs, "b f i (c h w) -> b f (i c) h w", c=3, h=pixel_frames.shape[3])


def from_bands(bands: Float[Tensor, "b f 12 h w"]) -> Float[Tensor, "b 4*f 3 h w"]:
    """Inverse of `to_bands`, by sums and differences: a matrix would have to be sent to the device at every call."""
    mean, halves, first, second = bands.unflatten(2, (4, 3)).unbind(2)
    halves, first, second = (change / CHANGE_GAIN for change in (halves, _R * first, _R * second))
    early, late = mean + halves, mean - halves
    return torch.stack([early + first, early - first, late + second, late - second], dim=2).flatten(1, 2) / 2


def _gained(like: Tensor) -> Float[Tensor, "4 4"]:
    return (HAAR * torch.tensor([1.0, *[CHANGE_GAIN] * 3])[:, None]).to(like)


def _channels_last(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The channels-last memory format, in which convolutions are fastest on CPUs and GPUs; layers keep it."""
    return x.contiguous(memory_format=torch.channels_last)


class ResBlock(nn.Module):
    """Two 3x3 convolutions with a skip, without normalisation: statistics over space would differ between a crop and
    the whole picture, and over time between a chunk and the whole clip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class MemoryBlock(nn.Module):
    """A residual block that also sees the previous latent frame; before the first one it sees zeros."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv1 = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(
        self, x: Float[Tensor, "b f c h w"], previous: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b f c h w"], Float[Tensor, "b c h w"]]:
        past = torch.cat([previous[:, None], x[:, :-1]], dim=1)
        both = _channels_last(torch.cat([x, past], dim=2).flatten(0, 1))
        y = self.conv2(F.relu(self.conv1(F.relu(both))))
        return x + y.unflatten(0, x.shape[:2]), x[:, -1]


BANDS = 12  # channels of a pack as bands: 4 of time times 3 of colour


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Encoder(nn.Module):
    """Encodes each pack of four frames by itself, so that a stream needs no state. Before training the convolutions add
    nothing to the linear patches."""

    def __init__(self, config: HaarConfig) -> None:
        super().__init__()
        c1, c2, c3 = config.channels
        self.patch = nn.Conv2d(BANDS, config.latent_channels, 8, stride=8)
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * BANDS, c1, 3, padding=1),
            ResBlock(c1),
            nn.Conv2d(c1, c2, 3, stride=2, padding=1),
            ResBlock(c2),
            nn.Conv2d(c2, c3, 3, stride=2, padding=1),
            ResBlock(c3),
            nn.ReLU(),
            _zeroed(nn.Conv2d(c3, config.latent_channels, 3, padding=1)),
        )

    def forward(self, bands: Float[Tensor, "b 12 h w"]) -> Float[Tensor, "b c h//8 w//8"]:
        return self.patch(bands) + self.layers(bands)


class Decoder(nn.Module):
    """Latent frames to bands of packs of four frames; causal, with one memory block at 1/8 and one at 1/4 of the
    resolution. Before training the convolutions add nothing to the linear patches."""

    def __init__(self, config: HaarConfig) -> None:
        super().__init__()
        c1, c2, c3 = config.channels
        self.unpatch = nn.ConvTranspose2d(config.latent_channels, BANDS, 8, stride=8)
        self.into = nn.Conv2d(config.latent_channels, c3, 3, padding=1)
        self.memory = nn.ModuleList([MemoryBlock(c3), MemoryBlock(c2)])
        self.up = nn.Conv2d(c3, c2, 3, padding=1)
        self.out = nn.Sequential(
            ResBlock(c2),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(c2, c1, 3, padding=1),
            ResBlock(c1),
            nn.ReLU(),
            _zeroed(nn.Conv2d(c1, 4 * BANDS, 3, padding=1)),
            nn.PixelShuffle(2),
        )

    def forward(
        self, latents: Float[Tensor, "b f c h w"], state: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "b f 12 8*h 8*w"], HaarState]:
        frames, latents = latents.shape[:2], _channels_last(latents.flatten(0, 1))
        patches = self.unpatch(latents)
        x = self.into(latents).unflatten(0, frames)
        x, low = self.memory[0](x, state[0])
        x = self.up(F.interpolate(F.relu(x.flatten(0, 1)), scale_factor=2, mode="nearest")).unflatten(0, frames)
        x, high = self.memory[1](x, state[1])
        return (patches + self.out(x.flatten(0, 1))).unflatten(0, frames), (low, high)


class HaarAutoencoder(nn.Module):
    """8x8x4 autoencoder; a still picture is a pack of four equal frames.

    Latents are normalised with the statistics in the config. Decoding a clip chunk by chunk gives, to the bit, what
    decoding it whole gives: all memory is in the state that the caller passes from chunk to chunk.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: HaarConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.register_buffer("mean", torch.tensor(config.latents_mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(config.latents_std)[:, None, None], persistent=False)

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @property
    def dtype(self) -> torch.dtype:
        return self.mean.dtype

    def encode_reference(self, image: UInt8[Tensor, "b h w 3"], *, margin: int = 0, pasted: bool = False) -> Reference:
        check_no_margin(margin, pasted, self.config.family)
        frame = as_float(image).to(self.mean)[:, None]
        return self.from_latent(self.encode_pixels(frame.expand(-1, self.config.temporal_stride, -1, -1, -1)))

    def encode(
        self, pixel_frames: UInt8[Tensor, "b t h w 3"], reference: Reference
    ) -> Float[Tensor, "b f c h//8 w//8"]:
        """Latents do not depend on the reference."""
        return self.encode_pixels(as_float(pixel_frames).to(self.mean))

    def begin(self, reference: Reference) -> Memory:
        """A memory of zeros, whatever the reference."""
        return Memory(constant=(), moving=self.initial_state(reference.latent))

    def decode(
        self, latents: Float[Tensor, "b f c h w"], memory: Memory
    ) -> tuple[UInt8[Tensor, "b 4*f 8*h 8*w 3"], Memory]:
        pixel_frames, moving = self.decode_pixels(latents, memory.moving)
        return as_bytes(pixel_frames), Memory(memory.constant, moving)

    def from_latent(self, latent: Float[Tensor, "b 1 c h w"]) -> Reference:
        return Reference(latent, features=())

    def fuse(self) -> None:
        """Does nothing: this family has no faster layers."""

    def compute_in(self, dtype: torch.dtype) -> None:
        self.to(dtype)

    def encode_pixels(self, pixel_frames: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b f c h//8 w//8"]:
        """Pixel frames in [-1, 1] to normalised latents, with gradient.

        Raises:
            ValueError: the number of frames is no multiple of 4, or height or width no multiple of 8.
        """
        t, _, h, w = pixel_frames.shape[1:]
        if t % self.config.temporal_stride or h % self.config.spatial_stride or w % self.config.spatial_stride:
            raise ValueError(
                f"pixel_frames has {t} frames of {h}x{w}; frames must be a multiple of 4, height and width "
                "multiples of 8. Crop or pad the clip."
            )
        bands = to_bands(pixel_frames)
        latents = self.encoder(bands.flatten(0, 1)).unflatten(0, bands.shape[:2])
        return (latents - self.mean) / self.std

    def initial_state(self, latents: Float[Tensor, "b f c h w"]) -> HaarState:
        """State before the first latent frame of a stream whose latents have this shape, device and dtype."""
        b, _, _, h, w = latents.shape
        low, high = self.config.channels[2], self.config.channels[1]
        return latents.new_zeros(b, low, h, w), latents.new_zeros(b, high, 2 * h, 2 * w)

    def decode_pixels(
        self, latents: Float[Tensor, "b f c h w"], state: Sequence[Tensor] | None = None
    ) -> tuple[Float[Tensor, "b 4*f 3 8*h 8*w"], HaarState]:
        """Latents to pixel frames (about [-1, 1], not clamped), and the state to pass with the next chunk."""
        parts, state = [], self.initial_state(latents) if state is None else state
        # One by one: PyTorch's CPU convolutions add up in another order for one small picture than for several.
        for frame in latents.split(1, dim=1):
            pixel_frames, state = self.decode_at_once(frame, state)
            parts.append(pixel_frames)
        return torch.cat(parts, dim=1), tuple(state)

    def decode_at_once(
        self, latents: Float[Tensor, "b f c h w"], state: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "b 4*f 3 8*h 8*w"], HaarState]:
        """As `decode_pixels`, but for the last bits, in one run through the layers: for training on small crops."""
        bands, new_state = self.decoder(latents * self.std + self.mean, state)
        return from_bands(bands), new_state
