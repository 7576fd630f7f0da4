"""From what the studio recorded to a picture: light that wanders in skin, a room out of focus, a film's tones."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data.characters.appearance import Colour
from data.portraits.shaders import EYES, SKIN
from data.portraits.studio import Negative

# Deviation in millimetres and share of red, green, blue of light that leaves skin away from where it entered.
# Source: d'Eon and Luebke 2007, GPU Gems 3, chapter 14, table 14-1; square roots of the variances.
SCATTER = (
    (0.08, (0.233, 0.455, 0.649)),
    (0.22, (0.100, 0.336, 0.344)),
    (0.43, (0.118, 0.198, 0.0)),
    (0.75, (0.113, 0.007, 0.007)),
    (1.41, (0.358, 0.004, 0.0)),
    (2.72, (0.078, 0.0, 0.0)),
)

SATURATION = 1.12


def scattered(soft: Float[np.ndarray, "s s 3"], skin: np.ndarray, px_per_mm: float) -> Float[np.ndarray, "s s 3"]:
    """Irradiance of skin spread over its neighbourhood; other pixels are kept."""
    inside = skin.astype(np.float32)
    total = np.zeros_like(soft)
    for millimetres, share in SCATTER:
        sigma = millimetres * px_per_mm
        blurred = cv2.GaussianBlur(soft * inside[..., None], (0, 0), sigma)
        weight = cv2.GaussianBlur(inside, (0, 0), sigma)
        total += np.array(share, np.float32) * blurred / np.maximum(weight, 1e-3)[..., None]
    return np.where(skin[..., None], total, soft)


def room(side: int, colours: tuple[Colour, ...], seed: int) -> Float[np.ndarray, "s s 3"]:
    """A room out of focus: two walls, a window's glow, and discs of light."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    wall, floor, glow = (np.array(colour, np.float32) for colour in colours[:3])
    picture = wall + np.clip(0.5 + 0.6 * y, 0, 1)[..., None] * (floor - wall)
    for at, wide, high, strength in ((-0.75, 0.30, 0.8, 0.9), (0.78, 0.22, 0.9, 0.35), (0.35, 0.12, 0.6, 0.2)):
        box = ((np.abs(x - at) < wide) & (np.abs(y + 0.25) < high)).astype(np.float32)
        soft = cv2.GaussianBlur(box, (0, 0), side * 0.045)
        picture = picture + (strength * soft)[..., None] * (glow - picture)
    for _ in range(26):
        at, size = rng.uniform(-1.1, 1.1, 2), rng.uniform(0.03, 0.12)
        spot = np.clip((size - np.hypot(x - at[0], y - at[1])) / (0.1 * size), 0, 1)
        tint = np.array(colours[rng.integers(2, len(colours))], np.float32)
        picture = picture + (rng.uniform(0.03, 0.16) * spot)[..., None] * tint
    return cv2.GaussianBlur(picture, (0, 0), side * 0.006)


def develop(
    negative: Negative, backdrop: Float[np.ndarray, "s s 3"], px_per_mm: float, size: int
) -> UInt8[np.ndarray, "n n 3"]:
    """The picture in sRGB, made smaller to `size`."""
    soft = scattered(np.ascontiguousarray(negative.soft), np.isin(negative.material, [SKIN]), px_per_mm)
    lit = negative.colour * soft * np.where(negative.material == EYES, 0.9, 1)[..., None] + negative.gloss
    whole = np.where(negative.material[..., None] > 0, lit, backdrop)
    # Very bright points are held back before averaging, or they sparkle.
    small = cv2.resize(np.minimum(whole, 1.6).astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    small = small * (1 - 0.16 * np.clip(np.hypot(x, y) - 0.5, 0, 1)[..., None] ** 1.5)
    bloom = cv2.GaussianBlur(np.maximum(small - 0.75, 0), (0, 0), size / 90)
    return tones(small + 0.3 * bloom)


def tones(linear: Float[np.ndarray, "n n 3"]) -> UInt8[np.ndarray, "n n 3"]:
    """A soft shoulder for highlights, stronger colours, then sRGB."""
    knee = 0.55
    over = np.maximum(linear - knee, 0)
    held = np.minimum(linear, knee) + (1 - knee) * (1 - np.exp(-over / (1 - knee)))
    grey = held @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    held = np.maximum(grey[..., None] + SATURATION * (held - grey[..., None]), 0)
    encoded = np.where(held <= 0.0031308, 12.92 * held, 1.055 * np.maximum(held, 1e-6) ** (1 / 2.4) - 0.055)
    return np.round(255 * np.clip(encoded, 0, 1)).astype(np.uint8)
