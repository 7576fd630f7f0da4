"""How far a picture is from the true one: PSNR, SSIM, and a learned perceptual distance."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from gwm.files.tensors import read_tensor_file
from gwm.optional import optional_folder

WEIGHTS_COMMAND = "pip install --no-deps stlpips-pytorch==0.0.2"
WEIGHTS = "weights/vST0.0/alex_shift_tolerant.pth"
ROUNDING = 1 / 12  # squared error of rounding to uint8: no comparison can be closer, PSNR ends at 58.9 dB


def psnr(frames: UInt8[np.ndarray, "f h w 3"], truth: UInt8[np.ndarray, "f h w 3"]) -> Float[np.ndarray, " f"]:
    """Peak signal-to-noise ratio of each frame in dB; equal frames have 58.9.

    Raises:
        ValueError: the shapes differ.
    """
    _check_shapes(frames, truth)
    error = (frames.astype(np.float32) - truth) ** 2
    return 10 * np.log10(255**2 / error.mean(axis=(1, 2, 3)).clip(min=ROUNDING))


def ssim(frames: UInt8[np.ndarray, "f h w 3"], truth: UInt8[np.ndarray, "f h w 3"]) -> Float[np.ndarray, " f"]:
    """Structural similarity of each frame, colours apart and averaged, without a border of half a window.

    Source: Wang et al. 2004, "Image quality assessment", Eq. 13, with its window (11, sigma 1.5) and constants.

    Raises:
        ValueError: the shapes differ.
    """
    _check_shapes(frames, truth)
    x, y = (torch.from_numpy(pixels).permute(0, 3, 1, 2).flatten(0, 1)[:, None].float() for pixels in (frames, truth))
    mean_x, mean_y, square_x, square_y, product = (_blur(z) for z in (x, y, x * x, y * y, x * y))
    var_x, var_y, covariance = square_x - mean_x**2, square_y - mean_y**2, product - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return similarity.unflatten(0, (-1, 3)).mean(dim=(1, 2, 3, 4)).numpy()


def _blur(x: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h2 w2"]:
    window = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = window / window.sum()
    return F.conv2d(F.conv2d(x, window.view(1, 1, 1, 11)), window.view(1, 1, 11, 1))


class PerceptualDistance(nn.Module):
    """ST-LPIPS on AlexNet: distance of deep features, which forgives a shift by a pixel. 0 is equal, 0.5 is far.

    Weights: stlpips-pytorch (BSD-2), no code of it. Source: Ghildyal and Liu 2022, arXiv:2207.13686.

    Raises:
        MissingPackageError: the weights are not installed.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        path = optional_folder("stlpips_pytorch", WEIGHTS_COMMAND) / WEIGHTS
        weights = read_tensor_file(path, remedy=f"Install it again: {WEIGHTS_COMMAND}")
        self.register_buffer("shift", weights["scaling_layer.shift"])
        self.register_buffer("scale", weights["scaling_layer.scale"])
        slices = _alexnet_slices()
        for layers, name in zip(slices, ("1.0", "2.5", "3.9", "4.11", "5.13"), strict=True):
            conv = next(layer for layer in layers if isinstance(layer, nn.Conv2d))
            conv.load_state_dict({key: weights[f"net.slice{name}.{key}"] for key in ("weight", "bias")})
        self.slices = nn.ModuleList(slices)
        self.heads = nn.ParameterList([weights[f"lin{i}.model.1.weight"] for i in range(len(slices))])
        self.requires_grad_(False).eval()

    def forward(self, x: Float[Tensor, "b 3 h w"], y: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """Distance of pictures in [-1, 1]; gradient flows to both."""
        x, y = (x - self.shift) / self.scale, (y - self.shift) / self.scale
        distance = x.new_zeros(x.shape[0])
        for slice_, head in zip(self.slices, self.heads, strict=True):
            x, y = slice_(x), slice_(y)
            difference = (F.normalize(x, dim=1, eps=1e-10) - F.normalize(y, dim=1, eps=1e-10)).square()
            distance = distance + F.conv2d(difference, head).mean(dim=(1, 2, 3))
        return distance

    @torch.no_grad()
    def frames(
        self, frames: UInt8[np.ndarray, "f h w 3"], truth: UInt8[np.ndarray, "f h w 3"]
    ) -> Float[np.ndarray, " f"]:
        """Distance of each frame.

        Raises:
            ValueError: the shapes differ.
        """
        _check_shapes(frames, truth)
        x, y = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1 for pixels in (frames, truth))
        return torch.cat([self(*pair) for pair in zip(x.split(8), y.split(8), strict=True)]).numpy()

    @torch.no_grad()
    def features(self, frames: UInt8[np.ndarray, "f h w 3"], *, depth: int) -> Float[Tensor, "f c h2 w2"]:
        """The activation number `depth`, of 1 to 5, of each frame."""
        x = (torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1 - self.shift) / self.scale
        return torch.cat([nn.Sequential(*list(self.slices)[:depth])(part) for part in x.split(8)])


def _alexnet_slices() -> list[nn.Sequential]:
    """What leads to each of the five activations that are compared; every stride is a blur and a decimation."""
    return [
        nn.Sequential(nn.Conv2d(3, 64, 11, padding=2), _Halve(), nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(3, 1), _Halve(), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(3, 1), _Halve(), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]


class _Halve(nn.Module):
    """Blur with [1 2 1] and take every second pixel; reflected two pixels beyond the edge."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        kernel = torch.tensor([1.0, 2.0, 1.0], device=x.device, dtype=x.dtype) / 4
        kernel = (kernel[:, None] * kernel).expand(x.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=x.shape[1])


def _check_shapes(frames: np.ndarray, truth: np.ndarray) -> None:
    if frames.shape != truth.shape:
        raise ValueError(f"frames has shape {frames.shape}, must have truth's, {truth.shape}.")
