"""Turns of an agent and a user on one clock, and the window of them that becomes a clip."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from data.speech.espeak import Phoneme, Speech, say, voices_of
from data.speech.sentences import Split, sentence
from gwm.clock import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

Role = Literal["agent", "user"]
Scene = Literal["talk", "listen", "turn", "idle"]

# Mostly speech, as the mouth is what has to be learnt; "turn" holds the change from one speaker to the other.
SCENES: dict[Scene, float] = {"talk": 0.68, "listen": 0.18, "turn": 0.10, "idle": 0.04}
LEAD_IN_S = 0.2  # silence before the first turn, so that some clips show the start of speech
SLACK_S = 2.0  # a turn is at least this much longer than the clip, so that the window has room to move
MAX_TURN_S = 8.0
QUESTION_SHARE: dict[Role, float] = {"agent": 0.3, "user": 0.5}


@dataclass(frozen=True, slots=True)
class Manner:
    """The sound of one speaker throughout a clip; units as in `data.speech.espeak.say`."""

    voice: str
    rate_wpm: int
    pitch: int
    pitch_range: int


@dataclass(frozen=True, slots=True)
class Utterance:
    """One spoken sentence and the second at which its audio starts."""

    role: Role
    text: str
    speech: Speech
    start_s: float

    @property
    def end_s(self) -> float:
        return self.start_s + self.speech.duration_s

    @property
    def voiced_s(self) -> tuple[float, float]:
        """Start of its first and end of its last sound, without espeak's silences around them."""
        sounds = [(start, end) for ipa, start, end in self.speech.phonemes if ipa]
        return self.start_s + sounds[0][0], self.start_s + sounds[-1][1]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation and the frames `first_frame .. first_frame + num_frames` of it that are shown."""

    utterances: list[Utterance]
    agent_voice: str
    first_frame: int
    num_frames: int

    @property
    def start_s(self) -> float:
        return self.first_frame / FPS

    @property
    def end_s(self) -> float:
        return (self.first_frame + self.num_frames) / FPS

    def audio(self, role: Role) -> Float[np.ndarray, " t"]:
        """The clip's samples of one speaker, silence where nobody speaks."""
        start = self.first_frame * SAMPLES_PER_FRAME
        out = np.zeros(self.num_frames * SAMPLES_PER_FRAME, np.float32)
        for utterance in self._of(role):
            at = round(utterance.start_s * SAMPLE_RATE) - start
            samples = utterance.speech.samples[max(0, -at) : max(0, len(out) - at)]
            out[max(0, at) : max(0, at) + len(samples)] += samples
        return out

    def speaking(self, role: Role) -> Bool[np.ndarray, " f"]:
        """Frames whose centre lies between the first and last sound of a sentence."""
        centre = self.start_s + (np.arange(self.num_frames) + 0.5) / FPS
        spans = [utterance.voiced_s for utterance in self._of(role)]
        return np.any([(start <= centre) & (centre < end) for start, end in spans] or [centre < 0], axis=0)

    def phonemes(self, role: Role) -> list[Phoneme]:
        """Gapless phonemes of one speaker from second 0 of the conversation, silences included."""
        track: list[Phoneme] = []
        now = 0.0
        for utterance in self._of(role):
            if utterance.start_s > now:
                track.append(("", now, utterance.start_s))
            at = utterance.start_s
            track += [(ipa, start + at, end + at) for ipa, start, end in utterance.speech.phonemes]
            now = utterance.end_s
        return track if now >= self.end_s else [*track, ("", now, self.end_s)]

    def text(self, role: Role) -> str | None:
        """The sentences of one speaker that are heard in the clip, separated by spaces; None if there is none."""
        heard = [u.text for u in self._of(role) if u.voiced_s[0] < self.end_s and u.voiced_s[1] > self.start_s]
        return " ".join(heard) or None

    def _of(self, role: Role) -> list[Utterance]:
        return [utterance for utterance in self.utterances if utterance.role == role]


def random_manner(rng: np.random.Generator, split: Split) -> Manner:
    """A voice of the split with its own speed, pitch and pitch range."""
    voices = voices_of(split)
    return Manner(
        voice=voices[rng.integers(len(voices))],
        rate_wpm=int(rng.integers(125, 185)),
        pitch=int(rng.integers(35, 66)),
        pitch_range=int(rng.integers(35, 75)),
    )


def speak_turn(
    rng: np.random.Generator, role: Role, manner: Manner, *, start_s: float, min_s: float, split: Split
) -> list[Utterance]:
    """Sentences one after the other, with short pauses, until the turn lasts `min_s`."""
    turn: list[Utterance] = []
    now = start_s
    while now - start_s < min_s:
        kind = "question" if rng.random() < QUESTION_SHARE[role] else "statement"
        text = sentence(rng, kind=kind, split=split)
        speech = say(
            text, voice=manner.voice, rate_wpm=manner.rate_wpm, pitch=manner.pitch, pitch_range=manner.pitch_range
        )
        turn.append(Utterance(role, text, speech, now))
        now = turn[-1].end_s + rng.uniform(0.05, 0.35)
    return turn


def converse(rng: np.random.Generator, *, num_frames: int, split: Split) -> Dialogue:
    """A random conversation and a random window of it.

    The window starts anywhere in the first turn, so most clips begin in the middle of a sentence, as every chunk but
    the first does when a character is served.
    """
    scene = list(SCENES)[rng.choice(len(SCENES), p=list(SCENES.values()))]
    clip_s = num_frames / FPS
    manners: dict[Role, Manner] = {"agent": random_manner(rng, split), "user": random_manner(rng, split)}
    if scene == "idle":
        return Dialogue([], manners["agent"].voice, 0, num_frames)
    role: Role = "user" if scene == "listen" or (scene == "turn" and rng.random() < 0.5) else "agent"
    min_s = min(0.6 * clip_s if scene == "turn" else clip_s + SLACK_S, MAX_TURN_S)
    utterances = speak_turn(rng, role, manners[role], start_s=LEAD_IN_S, min_s=min_s, split=split)
    end_s = utterances[-1].end_s
    if scene == "turn":
        start_s = end_s - clip_s * rng.uniform(0.3, 0.7)
    else:
        start_s = rng.uniform(0, max(LEAD_IN_S, end_s - clip_s))
    first_frame = max(0, int(start_s * FPS))
    while end_s < (first_frame + num_frames) / FPS:
        role = "user" if role == "agent" else "agent"
        turn_s = rng.uniform(0.5, MAX_TURN_S)
        start_s = end_s + rng.uniform(0.1, 0.6)
        utterances += speak_turn(rng, role, manners[role], start_s=start_s, min_s=turn_s, split=split)
        end_s = utterances[-1].end_s
    return Dialogue(utterances, manners["agent"].voice, first_frame, num_frames)
