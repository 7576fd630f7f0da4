"""The code of a pixel frame: facial actions, head pose and gaze, all zero where the picture is its reference.

Actions are ARKit's blend shapes in [0, 1], in the order of `data.actions`; the pose is yaw, pitch and roll in radians
minus the reference's; gaze is in [-1, 1], x and y. Each number is divided by a constant of its own, about its root
mean square over rendered speech, and not shifted: the code of the reference is exactly zero, so a latent says how the
picture *moves*, and whatever depends on it can be made to vanish at rest.

Latents are `b f 57 2 2`: the four pixel frames of a latent frame are the cells of its 2x2 grid, row by row.
`MotionConfig`, at the end, is the shape of the autoencoder that makes them.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from gwm.condition.spec import Control
from gwm.files.json_text import JsonConfig

FRAMES = 4  # pixel frames of a latent frame
# Root mean squares over 250 performances of 4 s (2026-11-28), at least 0.1; 0.2 for actions that speech does not have.
SCALES: dict[str, float] = {
    "browDownLeft": 0.2, "browDownRight": 0.2, "browInnerUp": 0.26, "browOuterUpLeft": 0.18,
    "browOuterUpRight": 0.18, "cheekPuff": 0.2, "cheekSquintLeft": 0.1, "cheekSquintRight": 0.1,
    "eyeBlinkLeft": 0.17, "eyeBlinkRight": 0.17, "eyeLookDownLeft": 0.2, "eyeLookDownRight": 0.2,
    "eyeLookInLeft": 0.2, "eyeLookInRight": 0.2, "eyeLookOutLeft": 0.2, "eyeLookOutRight": 0.2, "eyeLookUpLeft": 0.2,
    "eyeLookUpRight": 0.2, "eyeSquintLeft": 0.2, "eyeSquintRight": 0.2, "eyeWideLeft": 0.2, "eyeWideRight": 0.2,
    "jawForward": 0.2, "jawLeft": 0.2, "jawOpen": 0.28, "jawRight": 0.2, "mouthClose": 0.2, "mouthDimpleLeft": 0.1,
    "mouthDimpleRight": 0.1, "mouthFrownLeft": 0.2, "mouthFrownRight": 0.2, "mouthFunnel": 0.19, "mouthLeft": 0.2,
    "mouthLowerDownLeft": 0.1, "mouthLowerDownRight": 0.1, "mouthPressLeft": 0.1, "mouthPressRight": 0.1,
    "mouthPucker": 0.2, "mouthRight": 0.2, "mouthRollLower": 0.1, "mouthRollUpper": 0.1, "mouthShrugLower": 0.1,
    "mouthShrugUpper": 0.2, "mouthSmileLeft": 0.14, "mouthSmileRight": 0.14, "mouthStretchLeft": 0.14,
    "mouthStretchRight": 0.14, "mouthUpperUpLeft": 0.1, "mouthUpperUpRight": 0.1, "noseSneerLeft": 0.2,
    "noseSneerRight": 0.2, "tongueOut": 0.1,
    "yaw": 0.1, "pitch": 0.07, "roll": 0.05, "gazeX": 0.15, "gazeY": 0.1,
}  # fmt: skip
# Root mean square shift, over a picture of 256 px, of a code that is 1 there and 0 elsewhere: the linear part of
# `basis`, fitted to 5,968 pictures of rendered people (2026-11-28).
SHIFTS_PX: dict[str, float] = {
    "browDownLeft": 0.41, "browDownRight": 0.40, "browInnerUp": 0.33, "browOuterUpLeft": 0.22,
    "browOuterUpRight": 0.16, "cheekPuff": 0.34, "cheekSquintLeft": 0.21, "cheekSquintRight": 0.17,
    "eyeBlinkLeft": 0.24, "eyeBlinkRight": 0.23, "eyeLookDownLeft": 0.20, "eyeLookDownRight": 0.21,
    "eyeLookInLeft": 0.17, "eyeLookInRight": 0.14, "eyeLookOutLeft": 0.20, "eyeLookOutRight": 0.17,
    "eyeLookUpLeft": 0.18, "eyeLookUpRight": 0.18, "eyeSquintLeft": 0.27, "eyeSquintRight": 0.30, "eyeWideLeft": 0.17,
    "eyeWideRight": 0.32, "jawForward": 0.28, "jawLeft": 0.63, "jawOpen": 1.54, "jawRight": 0.60, "mouthClose": 0.48,
    "mouthDimpleLeft": 0.15, "mouthDimpleRight": 0.16, "mouthFrownLeft": 0.19, "mouthFrownRight": 0.24,
    "mouthFunnel": 0.18, "mouthLeft": 0.34, "mouthLowerDownLeft": 0.16, "mouthLowerDownRight": 0.10,
    "mouthPressLeft": 0.14, "mouthPressRight": 0.22, "mouthPucker": 0.18, "mouthRight": 0.39, "mouthRollLower": 0.06,
    "mouthRollUpper": 0.12, "mouthShrugLower": 0.11, "mouthShrugUpper": 0.25, "mouthSmileLeft": 0.33,
    "mouthSmileRight": 0.25, "mouthStretchLeft": 0.15, "mouthStretchRight": 0.22, "mouthUpperUpLeft": 0.14,
    "mouthUpperUpRight": 0.12, "noseSneerLeft": 0.26, "noseSneerRight": 0.24, "tongueOut": 0.19,
    "yaw": 6.76, "pitch": 4.57, "roll": 5.37, "gazeX": 0.04, "gazeY": 0.03,
}  # fmt: skip
# Eyes hold still between jumps. A model's gaze trembles and drifts instead: held until it is this far away, in [-1, 1],
# it jumps as often as the data's (1.23 and 1.30 times a second) and as far (0.09 and 0.08).
SACCADE = 0.08
NAMES: tuple[str, ...] = tuple(SCALES)
WIDTH = len(NAMES)
ACTIONS = slice(0, 52)
POSE = slice(52, 55)
GAZE = slice(55, 57)
LIMITS = {"yaw": (-0.5, 0.5), "pitch": (-0.3, 0.3), "roll": (-0.3, 0.3), "gazeX": (-1.0, 1.0), "gazeY": (-1.0, 1.0)}
CONTROLS = tuple(Control(name, *LIMITS.get(name, (0.0, 1.0))) for name in NAMES)  # limits are those of training


def place(name: str) -> int:
    """Which number of a code has this name.

    Raises:
        ValueError: none has.
    """
    if name not in SCALES:
        raise ValueError(f"name={name!r} must be one of {NAMES}.")
    return NAMES.index(name)


def mirror() -> tuple[list[int], Float[Tensor, "57"]]:
    """Order and signs that turn the code of a picture into that of its mirror image."""
    swapped = [name.replace("Left", "?").replace("Right", "Left").replace("?", "Right") for name in NAMES]
    signs = torch.ones(WIDTH)
    signs[[place("yaw"), place("roll"), place("gazeX")]] = -1
    return [place(name) for name in swapped], signs


def standardise(
    actions: Float[Tensor, "*b 52"], pose: Float[Tensor, "*b 3"], gaze: Float[Tensor, "*b 2"]
) -> Float[Tensor, "*b 57"]:
    """Codes; `pose` is relative to the reference, which has no actions and looks at the camera."""
    raw = torch.cat([actions, pose, gaze], dim=-1).float()
    return raw / torch.tensor(list(SCALES.values()), device=raw.device)


def physical(code: Float[Tensor, "*b 57"]) -> Float[Tensor, "*b 57"]:
    """Actions in [0, 1], radians and gaze: what `standardise` was given, side by side."""
    return code * torch.tensor(list(SCALES.values()), device=code.device)


def to_latents(code: Float[Tensor, "b t 57"]) -> Float[Tensor, "b f 57 2 2"]:
    """Four pixel frames are the 2x2 cells of a latent frame.

    Raises:
        ValueError: the number of frames is no multiple of four.
    """
    if code.shape[1] % FRAMES:
        raise ValueError(f"num_frames={code.shape[1]} must be a multiple of {FRAMES}: a latent frame holds as many.")
    return rearrange(code, "b (f h w) c -> b f c h w", h=2, w=2)


def from_latents(latents: Float[Tensor, "b f 57 2 2"]) -> Float[Tensor, "b 4*f 57"]:
    """Inverse of `to_latents`."""
    return rearrange(latents, "b f c h w -> b (f h w) c")


def steadied(
    code: Float[Tensor, "b t 57"], before: Float[Tensor, "b 5"]
) -> tuple[Float[Tensor, "b t 57"], Float[Tensor, "b 5"]]:
    """Codes as they are shown: heads go on from where they were, and eyes hold still between jumps.

    A chunk is sampled at once, so all of its four frames are off by nearly the same; heads then step from chunk to
    chunk. A step beyond what the first two frames move is spread over the chunk. Gaze stays where it was until it is
    meant to be farther away than `SACCADE`. Lips and lids are left alone: spreading would make them late.

    before: pose and gaze of the frame before, standardised; zeros, those of the reference, before the first. Those of
    the last frame are returned.
    """
    pose, gaze = before[:, :3], before[:, 3:]
    scale, fade = code.new_tensor(list(SCALES.values())[GAZE]), torch.arange(FRAMES - 1, -1, -1).to(code) / FRAMES
    poses, gazes = [], []
    for meant in code.split(FRAMES, dim=1):
        moves = meant[:, :, POSE]
        step = pose + (moves[:, 1] - moves[:, 0]) - moves[:, 0]
        poses.append(moves + fade[:, None] * step[:, None])
        pose = poses[-1][:, -1]
        for wanted in meant[:, :, GAZE].unbind(dim=1):
            far = ((wanted - gaze) * scale).norm(dim=1, keepdim=True) > SACCADE
            gaze = torch.where(far, wanted, gaze)
            gazes.append(gaze)
    shown = torch.cat([code[..., ACTIONS], torch.cat(poses, dim=1), torch.stack(gazes, dim=1)], dim=-1)
    return shown, torch.cat([pose, gaze], dim=1)


MARGIN = 4  # a portrait's side, over what is known of the picture beyond each of its sides


@dataclass(frozen=True, kw_only=True, slots=True)
class MotionConfig(JsonConfig):
    """Channels at 1/2, 1/4, 1/8 and 1/16 of the working size, which is 256 px."""

    family: Literal["motion"] = "motion"
    half: int = 24
    quarter: int = 40
    eighth: int = 64
    sixteenth: int = 128
    hidden: int = 48  # of the residual at 1/4
    warped: int = 24  # features of the reference that are warped at 1/4, and two thirds of it at 1/2
    top: int = 8  # cells of the 64x64 grid in which a residual is made: rows from here down,
    left: int = 6  # columns from here to the same distance from the right

    latent_channels = 57  # numbers of a code
    spatial_stride = 128  # the 2x2 cells of a latent frame are its pixel frames; decoded pictures may have any size
    temporal_stride = 4
    working_side = 256
    controls = CONTROLS

    def __post_init__(self) -> None:
        if self.family != "motion":
            raise ValueError(f"family={self.family!r} must be 'motion': other families have configs of their own.")
        if min(self.top, self.left) < 0 or max(self.top, 2 * self.left) >= 64:
            raise ValueError(f"top={self.top}, left={self.left} must leave cells of the 64x64 grid for the residual.")

    def margin(self, side: int) -> int:
        """Px known around a portrait of this side, which come into view when the head moves."""
        return side // MARGIN
