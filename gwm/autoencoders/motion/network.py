"""What is learnt: features of a reference image, made once, and a decoder from codes to flow and residual.

Every pixel frame is decoded by itself. At rest flow and residual are zero by construction, whatever the weights.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gwm.autoencoders.motion.basis import FEATURES, GRID, FlowBasis
from gwm.autoencoders.motion.code import WIDTH, MotionConfig

SIDE = 256  # working size in px: a cell of the flow is 4 px
SHUT = 3.0  # what is drawn anew opens slowly: a share that starts open blurs everything
GATE = 8.0  # of the squared length of a code: from about 0.5 on, what the networks add counts fully


def channels_last(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """In memory, where convolutions are fastest."""
    return x.contiguous(memory_format=torch.channels_last)


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return set_bias(layer, 0.0)


def set_bias(layer: nn.Conv2d | nn.Linear, value: float) -> Any:
    """The same layer with another bias."""
    assert layer.bias is not None
    nn.init.constant_(layer.bias, value)
    return layer


def quiet(layer: nn.Conv2d | nn.Linear) -> Any:
    """The same layer with an output of zero until it is trained."""
    nn.init.zeros_(layer.weight)
    return set_bias(layer, 0.0)


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1)


def double(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c 2*h 2*w"]:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class Residual(nn.Module):
    """Two convolutions added to their input; no statistics, or a picture would depend on what is decoded with it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = conv(channels, channels), conv(channels, channels)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(leaky(self.first(leaky(x))))


@dataclass(frozen=True)
class Features:
    """What the decoder knows about a reference; one row a person."""

    image: Float[Tensor, "n 3 256 256"]  # in [-1, 1]
    at16: Float[Tensor, "n _ 16 16"]  # added in the decoder
    at8: Float[Tensor, "n _ 32 32"]
    at4: Float[Tensor, "n _ 64 64"]
    quarter: Float[Tensor, "n _ 64 64"]  # warped
    half: Float[Tensor, "n _ 128 128"]
    gain: Float[Tensor, "n k"]  # of each feature of the flow basis: 1 is the average person's
    person: Float[Tensor, "n 1 128 128"]  # logits: the layer that moves, against the background

    def of(self, rows: Int[Tensor, "m"]) -> "Features":
        """One row for each picture, given whose it is."""
        return Features(*(getattr(self, field.name)[rows] for field in fields(self)))

    def repeated(self, count: int) -> "Features":
        """The one person's features for `count` pictures, without copies."""
        return Features(
            *(
                getattr(self, field.name).expand(count, *[-1] * (getattr(self, field.name).ndim - 1))
                for field in fields(self)
            )
        )


class ReferenceNetwork(nn.Module):
    """Once a session: a reference image into features."""

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        c2, c4, c8, c16 = config.half, config.quarter + 24, config.eighth + 32, config.sixteenth
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), conv(12, c2), nn.LeakyReLU(0.1), conv(c2, c2))
        self.down4 = nn.Sequential(conv(c2, c4, stride=2), Residual(c4))
        self.down8 = nn.Sequential(nn.LeakyReLU(0.1), conv(c4, c8, stride=2), Residual(c8))
        self.down16 = nn.Sequential(nn.LeakyReLU(0.1), conv(c8, c16, stride=2), Residual(c16), Residual(c16))
        self.at4, self.at8, self.at16 = conv(c4, config.quarter, 1), conv(c8, config.eighth, 1), conv(c16, c16, 1)
        self.warped4, self.warped2 = conv(c4, config.warped, 1), conv(c2, 2 * config.warped // 3, 1)
        self.gain = quiet(nn.Linear(c16, FEATURES))
        self.up8, self.up4, self.up2 = conv(c16, c8, 1), conv(c8, c4, 1), conv(c4, c2, 1)
        self.person8, self.person4 = Residual(c8), Residual(c4)
        self.person2 = nn.Sequential(conv(c2, c2), nn.LeakyReLU(0.1), conv(c2, 1, 1))

    def forward(self, image: Float[Tensor, "n 3 256 256"]) -> Features:
        x2 = self.stem(channels_last(image))
        x4 = self.down4(leaky(x2))
        x8 = self.down8(x4)
        x16 = self.down16(x8)
        y8 = self.person8(double(self.up8(leaky(x16))) + x8)
        y4 = self.person4(double(self.up4(leaky(y8))) + x4)
        person = self.person2(leaky(double(self.up2(leaky(y4))) + x2))
        return Features(
            image=image,
            at16=self.at16(leaky(x16)),
            at8=self.at8(leaky(x8)),
            at4=self.at4(leaky(x4)),
            quarter=self.warped4(leaky(x4)),
            half=self.warped2(leaky(x2)),
            gain=1 + self.gain(leaky(x16).float().mean((2, 3))).float(),
            person=person.float(),
        )


@dataclass(frozen=True)
class Coarse:
    """What a code says at 1/4 of the working size."""

    flow: Float[Tensor, "n 2 64 64"]  # in cells, to be added to a cell's place: where the reference shows it
    content: Float[Tensor, "n c h w"]  # features for the residual; 64 x 64, or a window of it
    gate: Float[Tensor, "n 1 1 1"]  # 0 at rest, soon 1


class Modulation(nn.Module):
    """Scale and shift of channels by the code (FiLM, Perez et al. 2018, arXiv:1709.07871)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(WIDTH, 128), nn.SiLU(), quiet(nn.Linear(128, 2 * channels)))

    def forward(self, x: Float[Tensor, "n c h w"], code: Float[Tensor, "n 57"]) -> Float[Tensor, "n c h w"]:
        scale, shift = self.layers(code)[:, :, None, None].to(x.dtype).chunk(2, dim=1)
        return x * (1 + scale) + shift


class MotionDecoder(nn.Module):
    """Codes and features into flow (`coarse`), and from warped features into what is added (`fine`)."""

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        c2, c4, c8, c16 = config.half, config.quarter, config.eighth, config.sixteenth
        hidden, warped = config.hidden, config.warped
        self.config = config
        self.basis = FlowBasis()
        self.flow16, self.flow4 = conv(2, c16), conv(2, c4)
        self.by16, self.by8, self.by4 = Modulation(c16), Modulation(c8), Modulation(c4)
        self.body16, self.body8, self.body4 = Residual(c16), Residual(c8), Residual(c4)
        self.up8, self.up4 = conv(c16, c8), conv(c8, c4)
        self.flow = quiet(conv(c4, 2))
        self.content = conv(c4, hidden - warped, 1)
        self.by_hidden = Modulation(hidden)
        self.mix = nn.Sequential(conv(hidden, hidden), Residual(hidden), nn.LeakyReLU(0.1))
        self.up2 = nn.Sequential(conv(hidden, 4 * c2, 1), nn.PixelShuffle(2))
        inputs = c2 + 2 * warped // 3 + 12
        self.fine2 = nn.Sequential(conv(inputs, 32), nn.LeakyReLU(0.1), conv(32, 32), nn.LeakyReLU(0.1))
        self.last = quiet(conv(32, 16))

    def coarse(self, code: Float[Tensor, "n 57"], features: Features) -> Coarse:
        code = code.float()
        linear = self.basis(code, features.gain)
        x = self.flow16(channels_last(F.avg_pool2d(linear, 4))) + features.at16
        x = leaky(self.body16(self.by16(x, code)))
        x = leaky(self.body8(self.by8(self.up8(double(x)) + features.at8, code)))
        x = self.up4(double(x)) + self.flow4(channels_last(linear)) + features.at4
        x = leaky(self.body4(self.by4(x, code)))
        gate = -torch.expm1(-GATE * code.square().sum(1))[:, None, None, None]
        return Coarse(linear + gate * 2 * self.flow(x).float(), self.content(x), gate)

    def fine(
        self,
        code: Float[Tensor, "n 57"],
        coarse: Coarse,
        quarter: Float[Tensor, "n c h w"],
        half: Float[Tensor, "n c2 2*h 2*w"],
        image: Float[Tensor, "n 3 4*h 4*w"],
    ) -> tuple[Float[Tensor, "n 3 4*h 4*w"], Float[Tensor, "n 1 4*h 4*w"]]:
        """Residual and share of redrawing in [0, 1], from features and image after warping; all may be cut out alike,
        with `coarse.content`."""
        x = channels_last(torch.cat([coarse.content, quarter.to(coarse.content.dtype)], dim=1))
        x = self.up2(self.mix(self.by_hidden(x, code.float())))
        known = [half.to(x.dtype), F.pixel_unshuffle(image, 2).to(x.dtype)]
        out = F.pixel_shuffle(self.last(self.fine2(channels_last(torch.cat([x, *known], dim=1)))).float(), 2)
        return coarse.gate * out[:, :3], coarse.gate * (out[:, 3:] - SHUT).sigmoid()


class FrameEncoder(nn.Module):
    """A picture and its reference into a code, for footage; rendered clips have exact codes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.PixelUnshuffle(4),
            conv(144, 48),
            *_normalised(48),
            conv(48, 96, stride=2),
            NormalisedResidual(96),
            *_normalised(96),
            conv(96, 128, stride=2),
            NormalisedResidual(128),
            NormalisedResidual(128),
            *_normalised(128),
            conv(128, 32),
            nn.AvgPool2d(2),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(32 * (GRID // 8) ** 2, 192),
            nn.SiLU(),
            nn.Linear(192, WIDTH),
        )

    def forward(
        self, image: Float[Tensor, "n 3 256 256"], reference: Float[Tensor, "n 3 256 256"]
    ) -> Float[Tensor, "n 57"]:
        return self.net(channels_last(torch.cat([image - reference, image, reference], dim=1))).float()


class NormalisedResidual(nn.Module):
    """As `Residual`; without normalisation nearly all units of the encoder were dead after 450 steps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        second = conv(channels, channels)
        nn.init.zeros_(second.weight)
        self.layers = nn.Sequential(*_normalised(channels), conv(channels, channels), *_normalised(channels), second)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _normalised(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.GroupNorm(8, channels), nn.SiLU()


class MotionNetwork(nn.Module):
    """All of the autoencoder's weights."""

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        self.config = config
        self.reference, self.decoder, self.encoder = ReferenceNetwork(config), MotionDecoder(config), FrameEncoder()
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # torch's own overload lacks it
