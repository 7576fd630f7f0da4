"""Flat characters drawn from shapes: no two alike, and every part of the face moves as far as its action says.

Published drawings have a handful of mouths; an autoencoder that is to redraw the mouth of any drawing must see more.
The head with all that is on it tilts and shifts as one; shoulders and background stay.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from data.actions import index
from data.characters.cartoon import SHIFT_PER_RADIAN, WIDE_OPEN
from gwm.media.face import EYES_AT, MOUTH_AT

Colour = tuple[int, int, int]
FINE = 4  # subpixels a side: edges are smooth
EYE_KINDS = ("dot", "oval", "white", "almond")
MOUTH_KINDS = ("ellipse", "bowl", "box", "lens")
INK: Colour = (25, 20, 30)


@dataclass(frozen=True)
class SketchIdentity:
    """One drawn character. Lengths are shares of the frame."""

    name: str
    head: tuple[float, float, float]  # half width, half height, squareness (2: an ellipse)
    skin: Colour
    hair: Colour | None
    fringe: float  # how far down the forehead the hair reaches
    ears: float
    outline: int  # thickness in 256ths; 0: none
    shirt: Colour
    background: tuple[Colour, Colour]
    eye: str
    eye_size: float
    eye_apart: float
    iris: Colour
    brow: float  # thickness; 0: none
    mouth: str
    mouth_size: tuple[float, float]  # half width, and height when wide open
    lips: Colour | None
    cavity: Colour
    teeth: bool
    tongue: bool
    nose: int
    cheeks: Colour | None
    steps: int  # openings that are drawn; 0: all
    right: float = 0.0
    down: float = 0.0


def sketch(seed: int) -> SketchIdentity:
    """The character of a seed."""
    rng = np.random.default_rng((seed, 0x736B6574))

    def colour(low: int = 20, high: int = 250) -> Colour:
        r, g, b = rng.integers(low, high, 3).tolist()
        return r, g, b

    skins = ((250, 220, 195), (225, 170, 130), (160, 105, 70), (95, 60, 45), (255, 235, 120))
    skin = skins[rng.integers(len(skins))] if rng.random() < 0.6 else colour(70)
    dark = tuple(int(0.55 * c) for c in skin)
    low = colour()
    background = (low, colour()) if rng.random() < 0.4 else (low, low)
    return SketchIdentity(
        name=f"sketch-{seed}",
        head=(float(rng.uniform(0.24, 0.42)), float(rng.uniform(0.32, 0.46)), float(rng.choice([2, 2, 2.6, 4]))),
        skin=skin,
        hair=colour(10, 220) if rng.random() < 0.7 else None,
        fringe=float(rng.uniform(0.1, 0.45)),
        ears=float(rng.uniform(0.03, 0.09) if rng.random() < 0.6 else 0),
        outline=int(rng.choice([0, 0, 2, 4, 6])),
        shirt=colour(),
        background=background,
        eye=str(rng.choice(EYE_KINDS)),
        eye_size=float(rng.uniform(0.018, 0.06)),
        eye_apart=float(rng.uniform(0.08, 0.16)),
        iris=INK if rng.random() < 0.6 else colour(10, 150),
        brow=float(rng.uniform(0.006, 0.02) if rng.random() < 0.75 else 0),
        mouth=str(rng.choice(MOUTH_KINDS)),
        mouth_size=(float(rng.uniform(0.05, 0.13)), float(rng.uniform(0.06, 0.16))),
        lips=INK if rng.random() < 0.5 else (dark[0], dark[1], dark[2]),
        cavity=(70, 15, 25) if rng.random() < 0.6 else INK,
        teeth=bool(rng.random() < 0.5),
        tongue=bool(rng.random() < 0.6),
        nose=int(rng.integers(4)),
        cheeks=(235, 130, 130) if rng.random() < 0.3 else None,
        steps=int(rng.choice([0, 0, 3, 4])),
        right=float(rng.normal(0, 0.015)),
        down=float(rng.normal(0, 0.015)),
    )


def sketch_opening(who: SketchIdentity, actions: Float[np.ndarray, "f 52"]) -> Float[np.ndarray, " f"]:
    """Of the mouth that is drawn, in [0, 1]."""
    wanted = np.clip((actions[:, index("jawOpen")] - actions[:, index("mouthClose")]) / WIDE_OPEN, 0, 1)
    return np.round(wanted * who.steps) / who.steps if who.steps else wanted


class SketchRenderer:
    """Draws at one resolution; keeps nothing."""

    def __init__(self, resolution: int) -> None:
        self.resolution = resolution

    def render(
        self,
        who: SketchIdentity,
        actions: Float[np.ndarray, "f 52"],
        pose: Float[np.ndarray, "f 3"],
        gaze: Float[np.ndarray, "f 2"],
    ) -> tuple[UInt8[np.ndarray, "f h w 3"], Bool[np.ndarray, "f h w"]]:
        """Frames, and where the head is."""
        opening = sketch_opening(who, actions)
        drawn = [self._frame(who, *row) for row in zip(actions, opening.tolist(), pose, gaze, strict=True)]
        frames, heads = zip(*drawn, strict=True)
        return np.stack(frames), np.stack(heads)

    def _frame(
        self, who: SketchIdentity, actions: np.ndarray, opening: float, pose: np.ndarray, gaze: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        side = 2 * self.resolution
        pen = _Pen(side, pose, who)
        ramp = np.linspace(0, 1, side)[:, None, None]
        low, high = (np.array(c, np.float32) for c in who.background)
        pen.image = np.ascontiguousarray(np.broadcast_to(low + ramp * (high - low), (side, side, 3)).astype(np.uint8))
        still = replace_pose(pen)
        still.shape(_oval(0.5, 1.12, 0.42, 0.3), who.shirt)
        pen.image = still.image
        _draw_head(pen, who)
        _draw_eyes(pen, who, actions, gaze)
        _draw_mouth(pen, who, actions, opening)
        size = (self.resolution, self.resolution)
        small = cv2.resize(pen.image, size, interpolation=cv2.INTER_AREA)
        head = cv2.resize(pen.mask, size, interpolation=cv2.INTER_AREA) > 127
        return small, head


class _Pen:
    """Fills shapes given in shares of the frame, moved with the head."""

    def __init__(self, side: int, pose: Float[np.ndarray, "3"], who: SketchIdentity) -> None:
        self.side, self.pose, self.who = side, pose, who
        self.image = np.zeros((side, side, 3), np.uint8)
        self.mask = np.zeros((side, side), np.uint8)

    def place(self, points: Float[np.ndarray, "n 2"]) -> np.ndarray:
        """The inverse of what `cartoon_flow` undoes: tilt about the middle, then shift."""
        yaw, pitch, roll = self.pose
        cos, sin = np.cos(roll), np.sin(roll)
        away = points + np.array([self.who.right, self.who.down]) - 0.5
        turned = away @ np.array([[cos, -sin], [sin, cos]]).T
        moved = turned + 0.5 + SHIFT_PER_RADIAN * np.array([yaw, -pitch])
        return np.round((moved * self.side - 0.5) * 2**FINE).astype(np.int32)

    def shape(self, points: np.ndarray, colour: Colour, *, outline: int = 0, head: bool = False) -> None:
        placed = [self.place(points)]
        cv2.fillPoly(self.image, placed, colour, cv2.LINE_AA, FINE)
        if head:
            cv2.fillPoly(self.mask, placed, 255, cv2.LINE_AA, FINE)
        if outline:
            thick = max(1, round(outline * self.side / 256))
            cv2.polylines(self.image, placed, True, INK, thick, cv2.LINE_AA, FINE)
            if head:
                cv2.polylines(self.mask, placed, True, 255, thick, cv2.LINE_AA, FINE)

    def line(self, points: np.ndarray, colour: Colour, width: float) -> None:
        thick = max(1, round(width * self.side))
        cv2.polylines(self.image, [self.place(points)], False, colour, thick, cv2.LINE_AA, FINE)


def replace_pose(pen: _Pen) -> _Pen:
    """A pen for what does not move, on the same picture."""
    still = _Pen(pen.side, np.zeros(3), replace(pen.who, right=0.0, down=0.0))
    still.image = pen.image
    return still


def _oval(x: float, y: float, wide: float, high: float, power: float = 2.0, part: float = 1.0) -> np.ndarray:
    """A superellipse, from the left over the bottom; `part` 0.5 is its lower half."""
    angle = np.linspace(np.pi, np.pi - 2 * np.pi * part, 65)
    cos, sin = np.cos(angle), np.sin(angle)
    px = np.sign(cos) * np.abs(cos) ** (2 / power)
    py = np.sign(sin) * np.abs(sin) ** (2 / power)
    return np.stack([x + wide * px, y + high * py], 1)


def _draw_head(pen: _Pen, who: SketchIdentity) -> None:
    wide, high, power = who.head
    middle = (EYES_AT + MOUTH_AT) / 2 - 0.02
    if who.hair is not None:
        pen.shape(_oval(0.5, middle - 0.05, wide * 1.14, high * 1.1, power), who.hair, outline=who.outline, head=True)
    if who.ears:
        for sign in (-1, 1):
            ear = _oval(0.5 + sign * wide, middle + 0.01, who.ears, 1.3 * who.ears)
            pen.shape(ear, who.skin, outline=who.outline, head=True)
    face = _oval(0.5, middle, wide, high, power)
    pen.shape(face, who.skin, outline=who.outline, head=True)
    if who.hair is not None:
        line = middle - high + 2 * high * who.fringe * 0.5
        pen.shape(np.stack([face[:, 0], np.minimum(face[:, 1], line)], 1), who.hair)
    if who.cheeks is not None:
        for sign in (-1, 1):
            pen.shape(_oval(0.5 + sign * 0.62 * wide, MOUTH_AT - 0.06, 0.035, 0.03), who.cheeks)
    nose = (EYES_AT + MOUTH_AT) / 2 + 0.03
    shade = (int(0.8 * who.skin[0]), int(0.75 * who.skin[1]), int(0.75 * who.skin[2]))
    if who.nose == 1:
        pen.shape(_oval(0.5, nose, 0.025, 0.02), shade)
    if who.nose == 2:
        pen.line(np.array([[0.5, nose - 0.06], [0.52, nose], [0.49, nose + 0.005]]), INK, 0.008)


def _draw_eyes(pen: _Pen, who: SketchIdentity, actions: np.ndarray, gaze: np.ndarray) -> None:
    for side, sign in (("Left", 1), ("Right", -1)):  # the character's left is on the right of the picture
        lid = actions[index(f"eyeBlink{side}")] + 0.4 * actions[index(f"eyeSquint{side}")]
        open_ = float(np.clip(1 - lid + 0.3 * actions[index(f"eyeWide{side}")], 0, 1.3))
        x, size = 0.5 + sign * who.eye_apart, who.eye_size
        if open_ < 0.18:
            bend = np.linspace(-1, 1, 9)
            pen.line(np.stack([x + 1.1 * size * bend, EYES_AT + 0.35 * size * (1 - bend**2)], 1), INK, 0.011)
        else:
            _draw_eye(pen, who, x, size, open_, gaze)
        if who.brow:
            rise = 0.05 * (actions[index("browInnerUp")] + actions[index(f"browOuterUp{side}")]) / 2
            down = 0.03 * actions[index(f"browDown{side}")]
            y = EYES_AT - 1.1 * max(size, 0.03) - 0.035
            ends = np.array(
                [[x - sign * 1.2 * size, y - rise + 1.4 * down], [x + sign * 1.3 * size, y + 0.005 - rise + down]]
            )
            pen.line(ends, who.hair or INK, who.brow)


def _draw_eye(pen: _Pen, who: SketchIdentity, x: float, size: float, open_: float, gaze: np.ndarray) -> None:
    look = [0.45 * size * float(gaze[0]), -0.45 * size * float(gaze[1])]
    if who.eye == "dot":
        pen.shape(_oval(x + 0.3 * look[0], EYES_AT + 0.3 * look[1], 0.8 * size, 0.8 * size * open_), who.iris)
    elif who.eye == "oval":
        pen.shape(_oval(x + 0.3 * look[0], EYES_AT + 0.3 * look[1], 0.6 * size, 1.1 * size * open_), who.iris)
    else:
        wide, high, power = (1.0, 1.0, 2.0) if who.eye == "white" else (1.35, 0.8, 1.6)
        pen.shape(_oval(x, EYES_AT, wide * size, high * size * open_, power), (250, 250, 250), outline=who.outline // 2)
        pupil = 0.5 * size
        pen.shape(_oval(x + look[0], EYES_AT + look[1] * open_, pupil, min(pupil, high * size * open_)), who.iris)


def _draw_mouth(pen: _Pen, who: SketchIdentity, actions: np.ndarray, opening: float) -> None:
    round_ = float(np.clip(max(actions[index("mouthPucker")], actions[index("mouthFunnel")]), 0, 1))
    smile = float(actions[[index("mouthSmileLeft"), index("mouthSmileRight")]].mean())
    frown = float(actions[[index("mouthFrownLeft"), index("mouthFrownRight")]].mean())
    stretch = float(actions[[index("mouthStretchLeft"), index("mouthStretchRight")]].mean())
    wide = who.mouth_size[0] * (1 - 0.45 * round_ + 0.3 * smile + 0.15 * stretch)
    high = who.mouth_size[1] * opening * (1 - 0.2 * round_)
    curve = 0.05 * (smile - frown) + 0.004
    bend = np.linspace(-1, 1, 17)
    upper = MOUTH_AT + curve * (1 - bend**2) - 0.5 * curve - 0.25 * high * np.sqrt(1 - bend**2) * (who.mouth != "bowl")
    if high < 0.012:
        pen.line(np.stack([0.5 + wide * bend, upper], 1), who.lips or INK, 0.014)
        return
    drop = {"ellipse": np.sqrt(1 - bend**2), "lens": 1 - bend**2, "box": (1 - bend**8), "bowl": (1 - bend**4)}[
        who.mouth
    ]
    lower = upper + high * drop
    outer = np.concatenate([np.stack([bend, upper], 1), np.stack([bend, lower], 1)[::-1]])
    outer[:, 0] = 0.5 + wide * outer[:, 0]
    pen.shape(outer, who.cavity)
    inner = 0.82 * bend
    if who.tongue and high > 0.03:
        top = upper + 0.62 * high * drop + 0.12 * high * (bend**2)
        tongue = np.concatenate([np.stack([inner, np.minimum(top, lower)], 1), np.stack([inner, lower], 1)[::-1]])
        pen.shape(np.stack([0.5 + wide * tongue[:, 0], tongue[:, 1]], 1), (225, 95, 105))
    if who.teeth:
        bottom = upper + min(0.28 * high, 0.03) * drop
        teeth = np.concatenate([np.stack([inner, upper], 1), np.stack([inner, bottom], 1)[::-1]])
        pen.shape(np.stack([0.5 + wide * teeth[:, 0], teeth[:, 1]], 1), (250, 248, 240))
    if who.lips is not None:
        closed = np.concatenate([outer, outer[:1]])
        pen.line(closed, who.lips, 0.009)
