"""A face in a sentence, by the places of its landmarks: what can be said without a model that sees."""

import math

import numpy as np
from jaxtyping import Float

from gwm.media.face import EYE_CORNERS, LIP_CORNERS, LOWER_LIP, UPPER_LIP, head_yaw

NO_FACE = "I see no face."
AWAY_RAD = 0.3  # of a turned head
# Shares that neither size nor a tilted head changes; each tells apart what renders of two people show.
OPEN_MOUTH, SMILE = 0.2, 0.66


def expression(points: Float[np.ndarray, "468 3"]) -> str:
    """Mouth, and where the head is turned. Lids are left out: these landmarks do not follow them."""
    mouth = "You look calm"
    if lip_opening(points) > OPEN_MOUTH:
        mouth = "Your mouth is open"
    elif smile(points) > SMILE:
        mouth = "You smile"
    return f"{mouth}{' and you look away' if abs(head_yaw(points)) > AWAY_RAD else ''}."


def smile(points: Float[np.ndarray, "468 3"]) -> float:
    """Width of the mouth, relative to the distance of the outer eye corners."""
    return _distance(points, *LIP_CORNERS) / _distance(points, EYE_CORNERS[0], EYE_CORNERS[3])


def lip_opening(points: Float[np.ndarray, "468 3"]) -> float:
    """Gap between the lips, relative to the mouth's width."""
    return _distance(points, UPPER_LIP, LOWER_LIP) / _distance(points, *LIP_CORNERS)


def _distance(points: Float[np.ndarray, "468 3"], first: int, second: int) -> float:
    return math.dist(points[first], points[second])
