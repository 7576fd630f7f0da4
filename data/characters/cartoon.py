"""Flat characters from DiceBear's CC0 styles, with mouths and eyes that can be swapped while they talk."""

import io
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import dicebear
import numpy as np
import resvg_py
from jaxtyping import Float, UInt8
from PIL import Image

from data.actions import index

# Per style: mouths with their opening (height in the drawing, from that of the line to the tallest), and a round one.
# Measured from the art by drawing with and without a mouth. All styles are CC0 1.0.
MOUTHS: dict[str, tuple[dict[str, float], tuple[str, float]]] = {
    "clay": ({"line": 0.0, "openSmall": 0.42, "open": 1.0}, ("o", 1.0)),
    "critters": ({"line": 0.0, "ooh": 0.48, "grin": 0.73, "open": 1.0}, ("ooh", 0.48)),
    "moods": ({"line": 0.0, "gasp": 0.38, "bigSmile": 0.68, "open": 1.0}, ("gasp", 0.38)),
    "sprouts": ({"line": 0.0, "ooh": 0.48, "grin": 0.71, "open": 1.0}, ("ooh", 0.48)),
    "marbles": ({"line": 0.0, "open": 1.0}, ("open", 1.0)),
    "voxel-art": ({"flat": 0.0, "grin": 0.87, "laugh": 1.0}, ("ooh", 1.0)),
}
# Shown while the eyes are open (any one of them) and shut.
EYES = {
    "clay": (("even", "big", "dots", "pinprick"), "happy"),
    "critters": (("round", "dots", "bigPupils", "wide"), "closedLine"),
    "moods": (("pupils", "bigPupils", "sparkle", "small"), "closed"),
    "sprouts": (("round", "dots", "bigPupils", "wide"), "closedLine"),
    "marbles": (("dots", "wide", "oval"), "closed"),
    "voxel-art": (("open", "wide"), "closed"),
}
# Height of the face in the drawing, and how much larger than the drawing it is shown.
FACE = {
    "clay": (0.60, 1.5), "critters": (0.56, 1.2), "moods": (0.52, 1.1), "sprouts": (0.75, 1.7), "marbles": (0.55, 1.5),
    "voxel-art": (0.50, 1.8),
}  # fmt: skip
CARTOON_STYLES: tuple[str, ...] = ("clay", "critters", "moods", "sprouts")
UNSEEN_STYLES: tuple[str, ...] = ("marbles", "voxel-art")  # which no data set holds: for evaluations
BLINK = 0.5  # eyelid action from which the eyes are drawn shut
ROUND = 0.35  # pucker or funnel from which the mouth is drawn round
WIDE_OPEN = 0.55  # of the jaw's action: the mouth that is drawn widest
MARGIN = 0.25  # of the frame: what a turn may bring in from outside
SHIFT_PER_RADIAN = 0.25  # of the frame: how far a turn of the head moves the face


@dataclass(frozen=True)
class CartoonIdentity:
    """One flat character."""

    name: str
    style: str
    seed: int
    eyes: str
    background: str


@cache
def _style(name: str) -> dicebear.Style:
    return dicebear.Style(json.loads((files("dicebear_styles") / f"{name}.json").read_text()))


def cartoon(seed: int, style: str) -> CartoonIdentity:
    """The flat character of a seed."""
    rng = np.random.default_rng((seed, 0x6361))
    background = "".join(f"{value:02x}" for value in rng.integers(40, 240, 3))
    return CartoonIdentity(f"{style}-{seed}", style, seed, str(rng.choice(EYES[style][0])), background)


def _mouth_opening(actions: Float[np.ndarray, "f 52"]) -> Float[np.ndarray, "f"]:
    sealed = actions[:, index("mouthClose")]
    return np.clip(actions[:, index("jawOpen")] - sealed, 0, 1)


def _variants(who: CartoonIdentity, actions: Float[np.ndarray, "f 52"]) -> list[tuple[str, str, float]]:
    """Mouth, eyes and true opening of every frame."""
    mouths, rounded = MOUTHS[who.style]
    wanted = np.clip(_mouth_opening(actions) / WIDE_OPEN, 0, 1)
    nearest = np.abs(wanted[:, None] - np.array(list(mouths.values()))).argmin(1)
    pucker = np.maximum(actions[:, index("mouthPucker")], actions[:, index("mouthFunnel")])
    blink = actions[:, index("eyeBlinkLeft")] > BLINK
    drawn = []
    for k, p, b in zip(nearest, pucker, blink, strict=True):
        mouth = list(mouths)[k]
        opening = mouths[mouth]
        if p > ROUND and opening > 0:
            mouth, opening = rounded
        drawn.append((mouth, EYES[who.style][1] if b else who.eyes, opening))
    return drawn


def cartoon_mouth(who: CartoonIdentity, actions: Float[np.ndarray, "f 52"]) -> Float[np.ndarray, "f"]:
    """Opening of the mouth that is drawn, in [0, 1]; it moves in steps."""
    return np.array([opening for _, _, opening in _variants(who, actions)], np.float32)


def cartoon_flow(
    pose: Float[np.ndarray, "3"], reference_pose: Float[np.ndarray, "3"], cells: int
) -> Float[np.ndarray, "n n 2"]:
    """Where the reference shows each of `cells` x `cells` places of a frame, minus the place, in cells (x, y down):
    the drawing is tilted about the middle and shifted, once for each pose."""

    def tilt(roll: float) -> np.ndarray:
        return np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])

    def shift(p: np.ndarray) -> np.ndarray:
        return cells * SHIFT_PER_RADIAN * np.array([p[0], -p[1]])

    y, x = np.mgrid[0:cells, 0:cells]
    place = np.stack([x, y], -1) - (cells - 1) / 2
    drawing = (place - shift(pose)) @ tilt(float(pose[2])).T
    return drawing @ tilt(float(reference_pose[2])) + shift(reference_pose) - place


class CartoonRenderer:
    """Draws sprites once per mouth and eyes, then moves them with the head."""

    def __init__(self, resolution: int) -> None:
        self.resolution = resolution
        self.who: CartoonIdentity | None = None
        self.sprites: dict[tuple[str, str], Image.Image] = {}

    def render(
        self,
        who: CartoonIdentity,
        actions: Float[np.ndarray, "f 52"],
        pose: Float[np.ndarray, "f 3"],
        gaze: Float[np.ndarray, "f 2"],
    ) -> UInt8[np.ndarray, "f h w 3"]:
        """Frames of a performance; a flat face turns by shifting and tilting, and its gaze is not drawn."""
        if self.who != who:
            self.who, self.sprites = who, {}
        drawn = _variants(who, actions)
        return np.stack([self._frame(who, m, e, p) for (m, e, _), p in zip(drawn, pose, strict=True)])

    def _frame(self, who: CartoonIdentity, mouth: str, eyes: str, pose: np.ndarray) -> np.ndarray:
        if (mouth, eyes) not in self.sprites:
            self.sprites[mouth, eyes] = self._sprite(who, mouth, eyes)
        yaw, pitch, roll = pose
        size = self.resolution
        margin = round(MARGIN * size)
        moved = self.sprites[mouth, eyes].rotate(
            -np.degrees(roll),
            resample=Image.Resampling.BILINEAR,
            translate=(size * SHIFT_PER_RADIAN * yaw, -size * SHIFT_PER_RADIAN * pitch),
            fillcolor="#" + who.background,
        )
        return np.asarray(moved.crop((margin, margin, margin + size, margin + size)))

    def _sprite(self, who: CartoonIdentity, mouth: str, eyes: str) -> Image.Image:
        options = {
            "seed": who.name,
            "mouthVariant": [mouth],
            "eyesVariant": [eyes],
            "backgroundColor": [who.background],
        }
        svg = dicebear.Avatar(_style(who.style), options).to_string()
        centre, zoom = FACE[who.style]
        side = round(zoom * self.resolution)
        png = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side)
        drawing = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))
        left = (side - self.resolution) // 2
        top = min(round(centre * side) - self.resolution // 2, side - self.resolution)
        # The drawing's edge is repeated around it, or a tilted head would show where its body was cut off.
        wide = np.pad(drawing, [(self.resolution, self.resolution)] * 2 + [(0, 0)], mode="edge")
        margin = round(MARGIN * self.resolution)
        frame = self.resolution + 2 * margin
        top, left = top + self.resolution - margin, left + self.resolution - margin
        return Image.fromarray(wide[top : top + frame, left : left + frame])
