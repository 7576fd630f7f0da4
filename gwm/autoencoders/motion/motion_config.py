"""Shape of the motion autoencoder, stored beside its weights."""

from dataclasses import dataclass
from typing import Literal

from gwm.autoencoders.motion.code import CONTROLS
from gwm.files.json_config import JsonConfig

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
