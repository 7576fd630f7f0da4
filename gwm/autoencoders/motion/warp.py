"""Pictures moved by a flow: in tensors, at any size, with gradients. `canvas` has the same for a CPU's live picture."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from gwm.autoencoders.motion.basis import GRID

REACH = 2  # cells around a window that cubic interpolation sees
REDRAWN = 128  # px of the low-pass of a warped picture that is left where it is drawn anew


@dataclass(frozen=True)
class Window:
    """The same number of cells of the flow's grid for each picture, at a place of its own (row, column)."""

    corner: Int[Tensor, "n 2"]
    rows: int
    columns: int

    def cut(self, x: Float[Tensor, "n c h w"], scale: int | None = None) -> Float[Tensor, "n c h2 w2"]:
        """That part of pictures or features; a cell is `scale` of their pixels, by default as many as fit the grid."""
        scale = x.shape[-1] // GRID if scale is None else scale
        corners = (self.corner * scale).tolist()
        return torch.stack(
            [p[:, r : r + self.rows * scale, c : c + self.columns * scale] for p, (r, c) in zip(x, corners)]
        )


def whole(count: int) -> Window:
    return Window(torch.zeros(count, 2, dtype=torch.long), GRID, GRID)


def own_places(side: int, device: torch.device) -> Float[Tensor, "2 side side"]:
    """x and y of each pixel in [-1, 1], as `grid_sample` counts."""
    ticks = (torch.arange(side, device=device) + 0.5) * (2 / side) - 1
    return torch.stack([ticks[None, :].expand(side, side), ticks[:, None].expand(side, side)])


def places(flow: Float[Tensor, "n 2 64 64"], side: int) -> Float[Tensor, "n side side 2"]:
    """Where each pixel of pictures of `side` px lies in the reference.

    The flow is enlarged as displacements, and the pixel's own place added: so the border stays where it is.
    """
    if side != GRID:
        flow = F.interpolate(flow, size=(side, side), mode="bicubic", align_corners=False)
    return (flow * (2 / GRID) + own_places(side, flow.device)).permute(0, 2, 3, 1)


def places_in(flow: Float[Tensor, "n 2 64 64"], side: int, window: Window) -> Float[Tensor, "n h w 2"]:
    """A window of `places`; `side` is a multiple of the grid's. Only what the window needs is enlarged."""
    scale, edge = side // GRID, REACH * side // GRID
    padded = F.pad(flow, (REACH, REACH, REACH, REACH), mode="replicate")
    large = Window(window.corner, window.rows + 2 * REACH, window.columns + 2 * REACH).cut(padded, 1) * (2 / GRID)
    if scale > 1:
        large = F.interpolate(large, scale_factor=scale, mode="bicubic", align_corners=False)
    large = large[..., edge : large.shape[-2] - edge, edge : large.shape[-1] - edge]
    own = own_places(side, flow.device).expand(len(flow), -1, -1, -1)
    return (large + window.cut(own)).permute(0, 2, 3, 1)


def sample(image: Float[Tensor, "n c h w"], at: Float[Tensor, "n h2 w2 2"]) -> Float[Tensor, "n c h2 w2"]:
    """Bilinear; the border is repeated outside."""
    return F.grid_sample(image, at, mode="bilinear", padding_mode="border", align_corners=False)


def layer_share(person: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Share of the moving layer in [0, 1] from its logits; 0 and 1 are reached, so that nothing shines through."""
    return (1.5 * person.sigmoid() - 0.25).clamp(0, 1)


@torch.no_grad()
def background(image: Float[Tensor, "n 3 h w"], share: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 3 h w"]:
    """The image where it is not wholly of the moving layer; there, what lies around, smoothly filled in.

    Means of what is known over ever larger squares (push-pull, Gortler et al. 1996, "The Lumigraph", Sec. 3.4).
    """
    known = (1 - share).square() * (share < 0.5)
    filled = _fill(image * known, known)
    return torch.where(share < 1, image, filled)


def _fill(weighted: Float[Tensor, "n 3 h w"], known: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 3 h w"]:
    own = weighted / known.clamp(min=1e-6)
    height, width = known.shape[-2:]
    if min(height, width) <= 4:
        mean = weighted.sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(min=1e-6)
        return torch.where(known > 1e-3, own, mean)
    half = [shrink(x, (height // 2, width // 2)) for x in (weighted, known)]
    around = F.interpolate(_fill(*half), size=(height, width), mode="bilinear", align_corners=False)
    return torch.lerp(around, own, known.clamp(0, 1))


def layered(
    image: Float[Tensor, "n 3 h w"],
    share: Float[Tensor, "n 1 h w"],
    behind: Float[Tensor, "n 3 h w"],
    at: Float[Tensor, "n h2 w2 2"],
    window: Window,
) -> Float[Tensor, "n 3 h2 w2"]:
    """The moving layer, warped, over the background, which stays."""
    moved = sample(torch.cat([image, share], dim=1), at)
    return torch.lerp(window.cut(behind), moved[:, :3], moved[:, 3:])


def redraw(
    picture: Float[Tensor, "n 3 h w"],
    residual: Float[Tensor, "n 3 h w"],
    share: Float[Tensor, "n 1 h w"],
    low: Float[Tensor, "n 3 h w"],
) -> Float[Tensor, "n 3 h w"]:
    """The picture with a share of its detail taken away (`low` is its low-pass), and the residual added.

    A residual made at 256 px cannot take away what only a larger picture shows: the share does.
    """
    return torch.lerp(picture, low, share) + residual


def low_pass(picture: Float[Tensor, "n 3 h w"], factor: float) -> Float[Tensor, "n 3 h w"]:
    """Without what only pixels smaller by `factor` can show."""
    height, width = (max(1, round(n / factor)) for n in picture.shape[-2:])
    small = shrink(picture, (height, width))
    return F.interpolate(small, size=picture.shape[-2:], mode="bilinear", align_corners=False)


def shrink(x: Float[Tensor, "n c h w"], size: tuple[int, int]) -> Float[Tensor, "n c h2 w2"]:
    """Means over areas; whole ones are pooled, which is several times as fast."""
    (height, width), (new_height, new_width) = x.shape[-2:], size
    if height % new_height == 0 and width % new_width == 0:
        return F.avg_pool2d(x, (height // new_height, width // new_width))
    return F.interpolate(x, size=size, mode="area")
