"""Who a character is: everything about it that a clip does not change, drawn from a seed."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from data.characters.head import load_head

Colour = tuple[float, float, float]  # linear RGB in [0, 1]

SKIN_TONES = np.array(
    [
        [0.075, 0.042, 0.028],
        [0.12, 0.066, 0.042],
        [0.19, 0.105, 0.065],
        [0.33, 0.20, 0.125],
        [0.48, 0.31, 0.205],
        [0.62, 0.41, 0.29],
        [0.70, 0.50, 0.39],
    ]
)
HAIR_TONES = np.array(
    [[0.008, 0.006, 0.005], [0.03, 0.015, 0.008], [0.09, 0.04, 0.017], [0.30, 0.18, 0.07], [0.22, 0.05, 0.015],
     [0.35, 0.34, 0.33], [0.62, 0.52, 0.33]]
)  # fmt: skip
VIVID_TONES = np.array([[0.5, 0.05, 0.15], [0.05, 0.15, 0.5], [0.1, 0.4, 0.2], [0.4, 0.1, 0.5]])
IRIS_TONES = np.array(
    [[0.07, 0.03, 0.012], [0.10, 0.22, 0.42], [0.12, 0.22, 0.09], [0.2, 0.13, 0.04], [0.2, 0.25, 0.28]]
)
FRAME_TONES = np.array([[0.01, 0.01, 0.01], [0.08, 0.03, 0.01], [0.35, 0.24, 0.1], [0.4, 0.4, 0.42], [0.2, 0.02, 0.03]])
HAIR_KINDS = ("bald", "crop", "short", "volume", "curly", "bob", "long", "bun", "mohawk", "beanie")
GLASSES_KINDS = ("none", "round", "square", "cat", "large")
GLASSES_CHANCES = (0.78, 0.06, 0.08, 0.04, 0.04)
HAIR_CHANCES = (0.08, 0.12, 0.18, 0.1, 0.12, 0.12, 0.12, 0.08, 0.03, 0.05)


@dataclass(frozen=True)
class Identity:
    """One 3-D character. Colours are linear RGB; lengths are metres."""

    name: str
    style: str
    seed: int
    shape: Float[np.ndarray, "k"]  # coefficients of the head's components
    skin: Colour
    hair: Colour
    brow: Colour
    iris: Colour
    lips: Colour
    hair_kind: str
    hair_volume: float
    beard: float  # 0 none, 1 full
    freckles: float
    lid_shadow: float
    light: tuple[float, float, float]  # direction to the key light: right, up, towards the camera
    light_colour: Colour
    ambient: float
    background: tuple[Colour, Colour]
    background_seed: int
    glasses: str = "none"  # one of GLASSES_KINDS
    glasses_colour: Colour = (0.02, 0.02, 0.02)
    clutter: float = 0.0  # contrast of things behind the person; 0: a soft gradient alone


def _tone(table: np.ndarray, rng: np.random.Generator, spread: float) -> Colour:
    """A point between two neighbouring entries of a table of colours, slightly off."""
    at = rng.uniform(0, len(table) - 1)
    low = int(at)
    tone = table[low] + (at - low) * (table[min(low + 1, len(table) - 1)] - table[low])
    red, green, blue = np.clip(tone * np.exp(spread * rng.normal(size=3)), 0.003, 0.95)
    return float(red), float(green), float(blue)


def _pick(table: np.ndarray, rng: np.random.Generator, spread: float) -> Colour:
    red, green, blue = np.clip(table[rng.integers(len(table))] * np.exp(spread * rng.normal(size=3)), 0.003, 0.95)
    return float(red), float(green), float(blue)


def _free(rng: np.random.Generator) -> Colour:
    red, green, blue = rng.uniform(0.02, 0.8, 3) * rng.uniform(0.3, 1)
    return float(red), float(green), float(blue)


def _brow(hair: Colour, skin: Colour) -> Colour:
    """Darker than the hair, and always clearly darker than the skin: brows carry expression."""
    scale = min(0.6, 0.4 * sum(skin) / sum(hair))
    red, green, blue = (scale * c for c in hair)
    return red, green, blue


def human(seed: int) -> Identity:
    """A person drawn from `seed`; one in eight is a caricature."""
    rng = np.random.default_rng((seed, 0x6877))
    strength = 1.4 if rng.random() < 0.12 else rng.uniform(0.7, 1.15)
    shape = np.clip(rng.normal(size=len(load_head().components)), -2.2, 2.2) * strength
    skin = _tone(SKIN_TONES, rng, 0.04)
    hair = _pick(VIVID_TONES if rng.random() < 0.06 else HAIR_TONES, rng, 0.2)
    redness = (0.78, 0.42, 0.42) if rng.random() < 0.75 else (0.85, 0.2, 0.25)
    flush = (0.035, 0.006, 0.008)  # keeps the lips of dark skin visible
    lips = tuple(
        float(np.clip(s * r + f + 0.02 * rng.random(), 0.01, 0.9)) for s, r, f in zip(skin, redness, flush, strict=True)
    )
    angle = rng.uniform(-1.1, 1.1)
    return Identity(
        name=f"anny-{seed}",
        style="anny",
        seed=seed,
        shape=shape.astype(np.float32),
        skin=skin,
        hair=hair,
        brow=_brow(hair, skin),
        iris=_pick(IRIS_TONES, rng, 0.2),
        lips=lips,  # type: ignore[arg-type]
        hair_kind=str(rng.choice(HAIR_KINDS, p=HAIR_CHANCES)),
        hair_volume=float(rng.uniform(0.7, 1.4)),
        beard=float(rng.uniform(0.3, 1) if rng.random() < 0.22 and max(hair) < 0.45 else 0),
        freckles=float(rng.uniform(0, 0.5) if rng.random() < 0.3 else 0),
        lid_shadow=float(rng.uniform(0, 0.7)),
        light=(float(np.sin(angle)), float(rng.uniform(0.15, 0.8)), float(np.cos(angle))),
        light_colour=tuple(float(c) for c in 1 + rng.uniform(-0.12, 0.12, 3)),  # type: ignore[arg-type]
        ambient=float(rng.uniform(0.25, 0.5)),
        background=(_free(rng), _free(rng)),
        background_seed=int(rng.integers(2**31)),
        glasses=str(rng.choice(GLASSES_KINDS, p=GLASSES_CHANCES)),
        glasses_colour=_pick(FRAME_TONES, rng, 0.3),
    )
