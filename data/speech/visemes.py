"""Mouth actions from timed phonemes: espeak's IPA -> ARPAbet -> 15 visemes with coarticulation -> ARKit weights."""

import functools
import re

import numpy as np
from jaxtyping import Float
from openfacefx import VISEMES, PhonemeSegment, build_viseme_curves
from openfacefx.coarticulation import CoartParams
from openfacefx.retarget import PRESETS

from data.actions import ACTION_NAMES
from data.speech.espeak import Phoneme

SILENCE = "sil"  # openfacefx's name of the resting mouth

# Every IPA symbol that espeak's English accents emit, longest match first. Escapes, as sources are ASCII.
ARPABET = {
    "t\u0283": "CH", "d\u0292": "JH",
    "a\u026a": "AY", "\u0259\u026a": "AY", "e\u026a": "EY", "ei": "EY", "\u0254\u026a": "OY", "o\u026a": "OY",
    "o\u028a": "OW", "\u0259\u028a": "OW", "\u0259u": "OW", "\u028c\u028a": "OW", "\u028c\u0289": "OW",
    "a\u028a": "AW", "\u00e6\u028a": "AW",
    "a": "AA", "\u0251": "AA", "\u00e6": "AE", "\u028c": "AH", "\u0250": "AH", "\u0259": "AH", "\u025b": "EH",
    "e": "EH", "\u025c": "ER", "\u025a": "ER", "\u026a": "IH", "\u1d7b": "IH", "i": "IY", "o": "AO",
    "\u0254": "AO", "\u0252": "AO", "u": "UW", "\u0289": "UW", "\u028a": "UH",
    "p": "P", "b": "B", "m": "M", "f": "F", "v": "V", "\u03b8": "TH", "\u00f0": "DH", "t": "T", "d": "D", "n": "N",
    "l": "L", "s": "S", "z": "Z", "\u0283": "SH", "\u0292": "ZH", "k": "K", "\u0261": "G", "\u014b": "NG", "h": "HH",
    "x": "K", "\u0294": "HH", "r": "R", "\u0279": "R", "\u027e": "D", "j": "Y", "w": "W", "\u028d": "W",
}  # fmt: skip
PRIMARY_STRESS = "\u02c8"
# Secondary stress, length (two spellings), dental, syllabic, palatalised: none of them moves the lips.
MODIFIERS = re.compile("[\u02c8\u02cc\u02d0:\u032a\u0329\u02b2]")
SYMBOL = re.compile("|".join(sorted(ARPABET, key=len, reverse=True)))

# A segment pulls hardest at its centre, so one long silence would leave the mouth open after the last word.
SILENCE_PIECE_S = 0.14
# Stressed vowels open more (default 0: all alike); lips seal almost fully at p, b, m (default 0.9); neighbours pull
# over half the default time, else the jaw hangs half open through whole words.
COARTICULATION = CoartParams(
    lead={"basic": (0.20, 0.20), "jaw": (0.20, 0.20), "lips": (0.25, 0.25), "tongue": (0.12, 0.12)},
    stress_emphasis=0.4,
    closure_floor=0.97,
    short_silence=0.12,
    intensity=1.3,
)


def to_arpabet(ipa: str) -> list[str]:
    """ARPAbet symbols of one espeak phoneme, which may be a vowel with its r or l; silence for "".

    Vowels carry their stress digit, on which openfacefx bases the size of the opening.

    Raises:
        ValueError: a symbol outside the table.
    """
    plain = MODIFIERS.sub("", ipa)
    if not plain or plain.startswith("("):  # "(en)" announces a change of language
        return [SILENCE]
    if SYMBOL.sub("", plain):
        raise ValueError(f"phoneme {ipa!a} must be made of symbols in data.speech.visemes.ARPABET; add it there.")
    stress = "1" if PRIMARY_STRESS in ipa else "0"
    names = [ARPABET[symbol] for symbol in SYMBOL.findall(plain)]
    return [name + stress if name[0] in "AEIOU" else name for name in names]


def segments(phonemes: list[Phoneme], *, delay_s: float) -> list[PhonemeSegment]:
    """openfacefx segments `delay_s` later than `phonemes`, after silence; compound phonemes share their time."""
    out = [PhonemeSegment(SILENCE, 0.0, delay_s)]
    for ipa, start, end in phonemes:
        names = to_arpabet(ipa)
        if names == [SILENCE]:
            names = [SILENCE] * max(1, int((end - start) / SILENCE_PIECE_S))
        edges = np.linspace(start, end, len(names) + 1) + delay_s
        out += [PhonemeSegment(name, float(a), float(b)) for name, a, b in zip(names, edges[:-1], edges[1:])]
    return out


@functools.cache
def viseme_actions() -> Float[np.ndarray, "v 52"]:
    """ARKit weights of each viseme, by openfacefx's own table."""
    table = np.zeros((len(VISEMES), len(ACTION_NAMES)), np.float32)
    for viseme, row in PRESETS["arkit"].items():
        for name, weight in row:
            table[VISEMES.index(viseme), ACTION_NAMES.index(name)] += weight
    return table


def mouth_visemes(phonemes: list[Phoneme], *, num_frames: int, fps: int) -> Float[np.ndarray, "f v"]:
    """Viseme weights at the centre of each frame, rows summing to 1 within rounding.

    The dominance functions look ahead: a mouth starts to move up to 0.3 s before its sound, as real ones do.

    Source: Cohen and Massaro 1993, "Modeling coarticulation in synthetic visual speech"; openfacefx 0.24.
    """
    end = phonemes[-1][2] if phonemes else 0.0
    tail = ("", end, max(end, num_frames / fps) + 1.0)  # makes openfacefx's grid reach the last frame
    # The grid starts at 0: half a frame of delay puts the centre of frame k on its point k + 1.
    delayed = segments([*phonemes, tail], delay_s=0.5 / fps)
    _, weights = build_viseme_curves(delayed, fps=fps, params=COARTICULATION)
    return weights[1 : num_frames + 1].astype(np.float32)


def mouth_actions(phonemes: list[Phoneme], *, num_frames: int, fps: int) -> Float[np.ndarray, "f 52"]:
    """ARKit weights of the speaking mouth at the centre of each frame; other actions are 0."""
    return (mouth_visemes(phonemes, num_frames=num_frames, fps=fps) @ viseme_actions()).clip(0, 1)
