"""Which of the voices that run here fits a description, or is nearest to a sample: by what was measured of each."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from serve.live.speech.voice_measures import MeasuredVoice, measured_voices

# Words, and what they ask for: how far from the middle, of the gender where one is asked for, in standard deviations.
WORDS: tuple[tuple[str, dict[str, float]], ...] = (
    (r"deep|bass|baritone", {"pitch": -1.5}),
    (r"low|lower", {"pitch": -1.2}),
    (r"high|higher|squeaky|girlish|boyish", {"pitch": 1.2}),
    (r"dark|husky|hoarse|gravelly|rough|warm|mellow|soft|smoky", {"brightness": -1.2}),
    (r"bright|light|clear|crisp|sharp|thin", {"brightness": 1.2}),
    (r"slow|slowly|calm|soothing|relaxed|measured|gentle|sleepy|patient|thoughtful", {"pace": -1.2}),
    (r"fast|quick|quickly|energetic|lively|excited|hurried|upbeat|cheerful", {"pace": 1.2}),
    (r"old|older|elderly|grandfather|grandmother|aged", {"pitch": -0.5, "pace": -0.5}),
    (r"child|children|kid|girl|boy|creature|elf|puppet|tiny|small|little", {"pitch": 1.2}),
    (r"young|youthful|younger|teenager?s?", {"pitch": 0.5, "pace": 0.3}),
    (r"expressive|melodic|sing-?song|animated|dramatic", {"liveliness": 1.2}),
    (r"flat|monotonous|monotone|dry|sober|neutral", {"liveliness": -1.2}),
)
GENDERS = (
    ("female", r"wom[ae]n|female|lady|feminine|girl|mother|grandmother|she|her|actress|queen"),
    ("male", r"m[ae]n|male|gentleman|masculine|boy|father|grandfather|guy|he|his|actor|king"),
)
ACCENTS = (
    ("British", r"british|english accent|england|london(er)?|uk|posh|received pronunciation"),
    ("American", r"american|us|usa|californian?|new york(er)?"),
)
CHILD = re.compile(r"\b(child|children|kid|girl|boy|cartoon|creature|elf|puppet)\b", re.IGNORECASE)
CHILD_SEMITONES = 3.0  # higher than the voice of an adult: none here is a child's
MUCH, SLOWER, QUICKER = 0.9, 0.92, 1.08  # from so far a pace that is asked for, the voice is played slower or quicker
OTHER_GENDER = {"female": 2.0, "male": -2.0}  # pitch, where no voice is of the gender that is asked for
GENDER_WEIGHT, ACCENT_WEIGHT = 6.0, 3.0  # beside standard deviations
# How a measure is said, and its value.
MEASURES: dict[str, tuple[str, Callable[[MeasuredVoice], float]]] = {
    "pitch": ("pitch {:.0f} Hz", lambda voice: voice.pitch_hz),
    "pace": ("{:.1f} syllables a second", lambda voice: voice.syllables_per_s),
    "brightness": ("spectrum centred at {:.0f} Hz", lambda voice: voice.brightness_hz),
    "liveliness": ("pitch moves over {:.0f} semitones", lambda voice: voice.pitch_range),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a description asks for; what it does not speak of is empty."""

    gender: str | None
    accent: str | None
    measures: dict[str, float]  # standard deviations from the middle
    child: bool

    @property
    def anything(self) -> bool:
        return bool(self.gender or self.accent or self.measures or self.child)


@dataclass(frozen=True, slots=True)
class Choice:
    """A voice, how well it fits (higher is better), and why."""

    voice: MeasuredVoice
    score: float
    reasons: tuple[str, ...]
    wish: str | dict[str, Any]  # the voice, perhaps tuned, as a character's `voice:` has it


def wanted(description: str) -> Wanted:
    """The words of a description that are known; those that ask for the same thing add up."""

    def says(words: str) -> bool:
        return bool(re.search(rf"\b({words})\b", description, re.IGNORECASE))

    measures: dict[str, float] = {}
    for words, asked in WORDS:
        if says(words):
            for name, far in asked.items():
                measures[name] = measures.get(name, 0.0) + far
    gender = next((name for name, words in GENDERS if says(words)), None)
    accent = next((name for name, words in ACCENTS if says(words)), None)
    return Wanted(gender, accent, measures, bool(CHILD.search(description)))


def ranked(description: str, tts: str) -> list[Choice]:
    """The voices of a kind, the one that fits best first.

    Raises:
        ValueError: voices of this kind do not run here.
    """
    voices, asked = of_kind(tts), wanted(description)
    if asked.gender is not None and all(voice.gender != asked.gender for voice in voices):
        measures = dict(asked.measures)  # none is: as high or low as there is
        measures["pitch"] = measures.get("pitch", 0.0) + OTHER_GENDER[asked.gender]
        asked = replace(asked, measures=measures)
    choices = [_judged(voice, asked, voices) for voice in voices]
    return sorted(choices, key=lambda choice: -choice.score)


def nearest(embedding: Float[np.ndarray, "256"], tts: str) -> list[Choice]:
    """The voices of a kind by the cosine between their d-vectors and that of a sample, the nearest first.

    Raises:
        ValueError: as `ranked`.
    """
    choices = []
    for voice in of_kind(tts):
        alike = float(voice.embedding @ embedding)
        choices.append(Choice(voice, alike, (f"similarity {alike:.2f}", described(voice)), voice.voice))
    return sorted(choices, key=lambda choice: -choice.score)


def built_in(name: str) -> MeasuredVoice:
    """The voice of this label, of any kind.

    Raises:
        ValueError: there is none.
    """
    known = {voice.label: voice for voice in measured_voices()}
    if name not in known:
        raise ValueError(f"name={name!r} must be one of {', '.join(known)}")
    return known[name]


def wish_of(voice: MeasuredVoice) -> dict[str, Any]:
    """As a character's `voice:`: this one, and of the other kinds those that are nearest to it."""
    kinds = sorted({other.tts for other in measured_voices()})
    return best_wishes({tts: nearest(voice.embedding, tts) for tts in kinds}) | {voice.tts: voice.voice}


def of_kind(tts: str) -> list[MeasuredVoice]:
    """Raises: ValueError: as `ranked`."""
    found = [voice for voice in measured_voices() if voice.tts == tts]
    if not found:
        kinds = sorted({voice.tts for voice in measured_voices()})
        raise ValueError(f"tts={tts!r} must be one of {', '.join(kinds)}: those voices were measured.")
    return found


def described(voice: MeasuredVoice) -> str:
    """Such as: British man, 98 Hz, 4.1 syllables a second."""
    who = {"female": "woman", "male": "man"}[voice.gender]
    pace = f"{voice.syllables_per_s:.1f} syllables a second"
    return f"{voice.accent} {who}, pitch {voice.pitch_hz:.0f} Hz, {pace}, brightness {voice.brightness_hz:.0f} Hz"


def _judged(voice: MeasuredVoice, asked: Wanted, voices: list[MeasuredVoice]) -> Choice:
    score, reasons = 0.0, []
    same = [other for other in voices if asked.gender is None or other.gender == voice.gender]
    group = "voices" if asked.gender is None else {"female": "women", "male": "men"}[voice.gender]
    for name, value, weight in (("gender", asked.gender, GENDER_WEIGHT), ("accent", asked.accent, ACCENT_WEIGHT)):
        if value is not None:
            fits = getattr(voice, name) == value
            score += weight if fits else 0.0
            reasons.append(getattr(voice, name) if fits else f"{getattr(voice, name)}, not {value}")
    for name, far in asked.measures.items():
        text, of = MEASURES[name]
        values = np.array([of(other) for other in same])
        place = float((of(voice) - values.mean()) / (values.std() + 1e-9))
        score -= abs(np.clip(place, -2, 2) - far) * min(abs(far), 1)
        lower = int((values < of(voice)).sum())
        reasons.append(f"{text.format(of(voice))}: above {lower} of {len(same)} {group}")
    wish, more = _tuned(voice, asked)
    return Choice(voice, round(score, 3), (*reasons, *more), wish)


def _tuned(voice: MeasuredVoice, asked: Wanted) -> tuple[str | dict[str, Any], list[str]]:
    """The voice with what no voice has by itself: a child's throat, and a pace that was asked for."""
    pace = asked.measures.get("pace", 0.0)
    speed = SLOWER if pace <= -MUCH else QUICKER if pace >= MUCH else None
    semitones = CHILD_SEMITONES if asked.child else 0.0
    if voice.tts not in ("piper", "kokoro") or (speed is None and not semitones):
        return voice.voice, []
    tuned: dict[str, Any] = {"name": voice.voice} if isinstance(voice.voice, str) else dict(voice.voice)
    reasons = []
    if semitones:
        tuned["semitones"] = tuned.get("semitones", 0) + semitones
        reasons.append(f"{semitones:g} semitones higher: none here is a child's")
    if speed:
        tuned["speed"] = speed
        reasons.append(f"made {'slower' if speed < 1 else 'quicker'}, to {speed:g} of its pace")
    return tuned, reasons


def as_text(choice: Choice) -> str:
    return f"{choice.voice.label} ({choice.score:.2f}): {'; '.join(choice.reasons)}"


def best_wishes(choices: dict[str, list[Choice]]) -> dict[str, Any]:
    """The best of each kind, as a character's `voice:`."""
    return {tts: found[0].wish for tts, found in choices.items()}
