"""A face and a code of the mouth become a picture: the calmest picture of the face speaks, and its mouth is put into
every other picture of it.

Why not each picture as its own reference, moved by the difference of codes: a mouth that is open in the film does not
close (its teeth stay), and what the old speech shaped remains. The calm picture knows nothing of the old speech, its
codes are those of training (from rest), and its skin is the same from picture to picture, so nothing shimmers.
"""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from gwm.autoencoders.motion.basis import GRID
from gwm.autoencoders.motion.canvas import Change
from gwm.autoencoders.motion.codec import NUM_FEATURES, MotionAutoencoder
from gwm.autoencoders.motion.network import SIDE, Features
from gwm.autoencoders.motion.warp import REDRAWN
from gwm.media.face import FIXED
from gwm.media.framing import Box, cut_exactly
from gwm.media.pixels import to_tensor
from gwm.resolution import Resolution
from serve.dubbing.tracks import Calm, box_of

AROUND = 16  # cells known beyond each side of the 64x64 grid of a face's square
CELLS = GRID + 2 * AROUND
REACH = 3.0  # cells over which a landmark's displacement is felt; farther away, means of many are
FAR_REACH, FAR_SHARE = 12.0, 1e-4
RING = 0.06  # of a square: over which colours around the mouth are compared
PROFILE, TURNED = 0.6, 0.9  # radians of yaw from which on, and beyond which, the old mouth stays


def _ramp(x: np.ndarray, start: float, end: float) -> np.ndarray:
    """0 at `start`, 1 at `end`, smooth at both."""
    share = ((x - start) / (end - start)).clip(0, 1)
    return share * share * (3 - 2 * share)


def _mouth_mask() -> Float[np.ndarray, "g g"]:
    """Where a mouth is drawn anew, in the cells of the square and around: from below the nose to below the chin."""
    ticks = (np.arange(CELLS) - AROUND + 0.5) / GRID
    across, down = np.abs(ticks - 0.5)[None, :], ticks[:, None]
    return (_ramp(down, 0.50, 0.62) * _ramp(down, 1.02, 0.90) * _ramp(across, 0.32, 0.20)).astype(np.float32)


MASK = _mouth_mask()


def shown_share(yaw: float) -> float:
    """How much of the new mouth is shown: none in profile, which the autoencoder does not know."""
    return float(_ramp(np.array([abs(yaw)]), TURNED, PROFILE)[0])


@dataclass(frozen=True)
class Region:
    """The part of a picture in which a mouth may be drawn, in whole px."""

    left: int
    top: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    @property
    def places(self) -> Float[np.ndarray, "h w 2"]:
        """x and y of the middle of every pixel, as whole numbers."""
        x, y = np.arange(self.left, self.left + self.width), np.arange(self.top, self.top + self.height)
        return np.stack(np.meshgrid(x, y), axis=-1).astype(np.float32)


def region_of(box: Box, picture: tuple[int, int]) -> Region:
    """Around all cells of the mask that are not 0, at any angle of the box, inside a picture of (height, width) px."""
    rows, columns = (np.flatnonzero(MASK.any(axis=axis)).astype(float) for axis in (1, 0))
    across, down = (columns[0] - 1, columns[-1] + 1), (rows[0] - 1, rows[-1] + 1)
    corners = np.array([[x, y] for x in across for y in down])
    px = _applied(_grid_to_picture(box), corners - AROUND)
    left, top = (max(0, math.floor(side)) for side in px.min(axis=0))
    right, bottom = (min(math.ceil(end), size) for end, size in zip(px.max(axis=0), picture[::-1], strict=True))
    return Region(left, top, max(0, right - left), max(0, bottom - top))


def mouth_mask(points: Float[np.ndarray, "468 3"], picture: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Where the mouth of a face with these landmarks may be drawn, in a picture of (height, width) px."""
    made, region = np.zeros(picture, bool), region_of(box_of(points), picture)
    if region.width and region.height:
        made[region.slices] = _on_region(MASK, box_of(points), region) > 0
    return made


def _grid_to_picture(box: Box, cells: int = GRID) -> Float[np.ndarray, "2 3"]:
    """From cells of the upright square to px of the picture; middles of both lie at whole numbers."""
    step = box.width / cells
    right = step * np.array([math.cos(box.angle), math.sin(box.angle)])
    below = step * np.array([-math.sin(box.angle), math.cos(box.angle)])
    corner = np.array([box.x, box.y]) - 0.5 - (cells - 1) / 2 * (right + below)
    return np.stack([right, below, corner], axis=1)


def _applied(matrix: Float[np.ndarray, "2 3"], points: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
    return points @ matrix[:, :2].T + matrix[:, 2]


def _on_region(field: Float[np.ndarray, "n n *c"], box: Box, region: Region, *, cells: int = GRID) -> np.ndarray:
    """A field over the square and `AROUND` of it, in the px of a region."""
    inverse = cv2.invertAffineTransform(_grid_to_picture(box, cells))
    matrix = inverse.copy()
    matrix[:, 2] = _applied(inverse, np.array([region.left, region.top], float)) + (field.shape[0] - cells) // 2
    size, how = (region.width, region.height), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(np.ascontiguousarray(field), matrix, size, flags=how, borderMode=cv2.BORDER_REPLICATE)
    )


def _sampled(picture: np.ndarray, at: Float[np.ndarray, "h w 2"], how: int = cv2.INTER_CUBIC) -> np.ndarray:
    """Edges are repeated outside."""
    return np.asarray(cv2.remap(picture, at[..., 0], at[..., 1], how, borderMode=cv2.BORDER_REPLICATE))


class Speaker:
    """The calm picture of a face, taken apart once a track."""

    def __init__(self, codec: MotionAutoencoder, calm: Calm) -> None:
        self.codec, self.calm, self.box = codec, calm, calm.box
        square = cut_exactly(calm.picture, self.box, Resolution(SIDE, SIDE))
        self.features = Features(*codec.encode_reference(to_tensor(square)[None]).features[:NUM_FEATURES])
        self.region = region_of(self.box, calm.picture.shape[:2])

    def says(self, code: Float[Tensor, "57"]) -> UInt8[np.ndarray, "s s 3"]:
        """The calm picture with another mouth, at its own size."""
        return moved(self.calm.picture, self.box, self.codec.change(code[None], self.features), self.region)

    def put_into(
        self,
        picture: UInt8[np.ndarray, "h w 3"],
        points: Float[np.ndarray, "468 3"],
        code: Float[Tensor, "57"],
        share: float,
    ) -> tuple[UInt8[np.ndarray, "h w 3"], Region, Float[np.ndarray, "r c"]]:
        """Another picture of the same face, whose landmarks are `points`, with the mouth of a code; and how much of
        each px of a region is drawn anew. Outside of the region nothing is."""
        box, region, mask = self._mask(points, picture.shape[:2], share)
        if not mask.any():
            return picture, region, mask
        speaking = _sampled(self.says(code), self._places(points, box, region))
        out = picture.copy()
        part = out[region.slices]
        part[mask > 0] = _blended(part, speaking, mask, RING * box.width)[mask > 0]
        return out, region, mask

    def _mask(
        self, points: Float[np.ndarray, "468 3"], shape: tuple[int, int], share: float
    ) -> tuple[Box, Region, Float[np.ndarray, "h w"]]:
        """In the region; of size 0 where the face is beyond the picture's edge."""
        box = box_of(points)
        size = self.box.width * fitted(self.calm.points[FIXED], points[FIXED])[0]
        box = replace(box, width=size, height=size)
        region = region_of(box, shape)
        if not (region.width and region.height):
            return box, region, np.zeros((region.height, region.width), np.float32)
        return box, region, share * _on_region(MASK, box, region)

    def _places(self, points: Float[np.ndarray, "468 3"], box: Box, region: Region) -> Float[np.ndarray, "h w 2"]:
        """Where the calm picture shows what each px of the region should: what a jaw moves goes with the head as a
        rigid body; what the border of the mask shows stays where it is in this picture."""
        scale, turn, shift = fitted(self.calm.points[FIXED], points[FIXED])
        rigid = (scale * self.calm.points @ turn.T + shift)[:, :2]
        own_grid = cv2.invertAffineTransform(_grid_to_picture(box))
        calm_grid = cv2.invertAffineTransform(_grid_to_picture(self.box))
        now, rigid, calm = (
            _applied(grid, xy - 0.5)
            for grid, xy in ((own_grid, points[:, :2]), (own_grid, rigid), (calm_grid, self.calm.points[:, :2]))
        )
        stays = 1 - _sampled(MASK, (now + AROUND).astype(np.float32)[None], cv2.INTER_LINEAR)[0]
        target = rigid + stays[:, None] * (now - rigid)
        field = _spread(target, calm - target)
        own = _applied(own_grid, region.places) + _on_region(field, box, region)
        return _applied(_grid_to_picture(self.box), own).astype(np.float32)


def _spread(at: Float[np.ndarray, "k 2"], values: Float[np.ndarray, "k 2"]) -> Float[np.ndarray, "g g 2"]:
    """Values of points as a smooth field: weighted means of those around (Nadaraya 1964, Watson 1964)."""
    ticks = np.arange(CELLS, dtype=np.float32) - AROUND
    x, y = ((ticks[:, None] - at[None, :, axis].astype(np.float32)) ** 2 for axis in (0, 1))
    field = np.zeros((CELLS, CELLS, 3), np.float32)
    known = np.concatenate([values, np.ones((len(values), 1))], axis=1).astype(np.float32)
    for reach, share in ((REACH, 1.0), (FAR_REACH, FAR_SHARE)):
        across, down = (np.exp(-distance / (2 * reach**2)) for distance in (x, y))
        weighted = (down[:, None] * known.T).reshape(-1, len(known))  # one product: einsum takes far longer
        field += share * (weighted @ across.T).reshape(CELLS, 3, CELLS).swapaxes(1, 2)
    return field[..., :2] / np.maximum(field[..., 2:], 1e-20)


def fitted(
    source: Float[np.ndarray, "k 3"], target: Float[np.ndarray, "k 3"]
) -> tuple[float, Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
    """Scale, rotation and shift that bring points nearest to others. Source: Umeyama 1991, Eq. 40 to 42."""
    a, b = source - source.mean(axis=0), target - target.mean(axis=0)
    left, size, right = np.linalg.svd(b.T @ a)
    signs = np.array([1, 1, np.sign(np.linalg.det(left @ right))])
    turn = left * signs @ right
    scale = float((size * signs).sum() / (a**2).sum())
    return scale, turn, target.mean(axis=0) - scale * turn @ source.mean(axis=0)


def moved(picture: UInt8[np.ndarray, "h w 3"], box: Box, change: Change, region: Region) -> UInt8[np.ndarray, "h w 3"]:
    """A picture with a change in its face's square, at its own size; as `gwm.autoencoders.motion.canvas.draw`, which
    knows upright squares alone, and with nothing behind the face."""
    flow, residual, share = (
        part[0].permute(1, 2, 0).float().cpu().numpy() for part in (change.flow, change.residual, change.share)
    )
    flow = cv2.copyMakeBorder(flow, AROUND, AROUND, AROUND, AROUND, cv2.BORDER_REPLICATE) * MASK[..., None]
    shift = _on_region(flow, box, region) @ _grid_to_picture(box)[:, :2].T.astype(np.float32)
    at = (region.places + shift).astype(np.float32)
    out = _sampled(picture, at)
    edge = AROUND * SIDE // GRID
    both = cv2.copyMakeBorder(np.concatenate([residual, share], axis=2), edge, edge, edge, edge, cv2.BORDER_CONSTANT)
    both = _on_region(both, box, region, cells=SIDE)
    factor = max(1.0, box.width / REDRAWN)
    small = max(1, round(region.width / factor)), max(1, round(region.height / factor))
    low = cv2.resize(cv2.resize(out, small, interpolation=cv2.INTER_AREA), (region.width, region.height))
    redone = out + both[..., 3:] * (low.astype(np.float32) - out) + 127.5 * both[..., :3]
    made = picture.copy()
    made[region.slices] = np.rint(redone).clip(0, 255).astype(np.uint8)
    return made


def _blended(
    part: UInt8[np.ndarray, "h w 3"], over: UInt8[np.ndarray, "h w 3"], mask: Float[np.ndarray, "h w"], reach: float
) -> UInt8[np.ndarray, "h w 3"]:
    """`over` in the light of `part`: what they differ by around the mouth is taken away from all of it, smoothly."""
    below, above = part.astype(np.float32), over.astype(np.float32)
    ring = ((mask > 0) * (1 - mask))[..., None]
    weighted = np.concatenate([(below - above) * ring, ring], axis=2, dtype=np.float32)
    small = 4.0 / max(4.0, reach)  # wide blurs are made of small pictures
    size = max(1, round(part.shape[1] * small)), max(1, round(part.shape[0] * small))
    spread = cv2.resize(weighted, size, interpolation=cv2.INTER_AREA)
    near, far = (np.asarray(cv2.GaussianBlur(spread, (0, 0), by * reach * small)) for by in (1, 3))
    light = np.asarray(cv2.resize(cv2.addWeighted(near, 1.0, far, 1e-3, 0.0), (part.shape[1], part.shape[0])))
    light = light[..., :3] / np.maximum(light[..., 3:], 1e-6)
    return np.rint(below + mask[..., None] * (above + light - below)).clip(0, 255).astype(np.uint8)
