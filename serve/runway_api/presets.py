"""Runway's preset voices and avatars by their ids, as far as this server has something like them.

Piper's voice is one man's (Joe); the presets play it higher or lower and faster or slower. Kokoro, espeak and
OpenAI-compatible servers have voices of their own.
"""

from dataclasses import dataclass
from typing import Any

from serve.live.speech.voice_choice import described, of_kind

AVATAR_PRESETS = (
    "game-character",
    "music-superstar",
    "game-character-man",
    "cat-character",
    "influencer",
    "tennis-coach",
    "human-resource",
    "fashion-designer",
    "cooking-teacher",
)


@dataclass(frozen=True, slots=True)
class VoicePreset:
    """A preset voice: its pitch and speed beside the local one, and its names in the other voices."""

    semitones: float
    speed: float
    kokoro: str | dict[str, Any]
    espeak: str
    openai: str

    @property
    def wish(self) -> dict[str, Any]:
        """As a character's `voice`."""
        local = {"semitones": self.semitones, "speed": self.speed}
        return {"piper": local, "kokoro": self.kokoro, "espeak": self.espeak, "openai": self.openai}

    def description(self, tts: str) -> str:
        """What the voice is where this kind of voices speaks."""
        if tts == "kokoro":
            tuned = self.kokoro if isinstance(self.kokoro, dict) else {"name": self.kokoro, "semitones": 0}
            voice = next(one for one in of_kind("kokoro") if one.voice == tuned["name"])
            up = f", {tuned['semitones']:+g} semitones" if tuned["semitones"] else ""
            return f"{tuned['name']}: {described(voice)}{up}."
        if tts != "piper":
            return f"The voice {self.wish[tts]}."
        up, speed = self.semitones, self.speed
        height = "low" if up < -1 else "bright" if up > 5 else "higher" if up > 2 else "medium"
        pace = "slow" if speed < 0.95 else "quick" if speed > 1.05 else "even"
        return (
            f"A {height} voice at {'an' if pace == 'even' else 'a'} {pace} pace, made from the one that is installed."
        )


VOICE_PRESETS = {
    "victoria": VoicePreset(4.0, 0.95, "bf_emma", "en-gb-x-rp+f2", "shimmer"),
    "vincent": VoicePreset(-2.0, 0.95, "am_onyx", "en-us+m3", "onyx"),
    "clara": VoicePreset(5.0, 1.0, "af_heart", "en-us+f3", "nova"),
    "drew": VoicePreset(0.0, 1.0, "am_michael", "en-us+m1", "echo"),
    "skye": VoicePreset(6.0, 1.08, "af_sky", "en-us+f4", "coral"),
    "max": VoicePreset(1.0, 1.1, "am_puck", "en-us+m2", "ash"),
    "morgan": VoicePreset(-4.0, 0.9, "am_santa", "en-us+m7", "onyx"),
    "felix": VoicePreset(2.0, 1.08, "bm_fable", "en-gb-x-rp+m2", "fable"),
    "mia": VoicePreset(7.0, 1.05, "af_jessica", "en-us+f1", "coral"),
    "marcus": VoicePreset(-3.0, 1.0, "am_fenrir", "en-us+m4", "onyx"),
    "summer": VoicePreset(6.0, 1.0, "af_aoede", "en-us+f5", "shimmer"),
    "ruby": VoicePreset(5.0, 1.08, "af_bella", "en-us+f2", "coral"),
    "aurora": VoicePreset(4.0, 0.92, "bf_isabella", "en-gb-x-rp+f3", "sage"),
    "jasper": VoicePreset(-1.0, 1.05, "bm_daniel", "en-gb-x-rp+m1", "ballad"),
    "leo": VoicePreset(1.0, 1.0, "am_liam", "en-us+m5", "ash"),
    "adrian": VoicePreset(-1.0, 1.0, "am_eric", "en-us+m6", "echo"),
    "nina": VoicePreset(5.0, 0.95, "af_kore", "en-gb-scotland+f4", "nova"),
    "emma": VoicePreset(4.5, 1.02, "bf_alice", "en-gb-scotland+f3", "fable"),
    "blake": VoicePreset(-2.0, 1.08, "am_echo", "en-gb-scotland+m2", "ash"),
    "david": VoicePreset(-1.5, 0.92, "bm_george", "en-gb-scotland+m1", "onyx"),
    "maya": VoicePreset(4.0, 1.05, "af_nova", "en-gb-scotland+f5", "nova"),
    "nathan": VoicePreset(0.0, 0.92, "bm_lewis", "en-gb-scotland+m3", "echo"),
    "sam": VoicePreset(2.0, 1.0, "af_alloy", "en-gb-x-gbclan+m1", "alloy"),
    "georgia": VoicePreset(3.5, 0.9, "af_sarah", "en-gb-scotland+f2", "sage"),
    "petra": VoicePreset(3.0, 1.0, "af_river", "en-gb-x-rp+f1", "sage"),
    "adam": VoicePreset(-0.5, 1.05, "am_adam", "en-gb-scotland+m4", "echo"),
    "zach": VoicePreset(2.5, 1.12, {"name": "am_puck", "semitones": 2}, "en-gb-scotland+m5", "ballad"),
    "violet": VoicePreset(7.0, 0.96, "bf_lily", "en-gb-x-rp+f4", "shimmer"),
    "roman": VoicePreset(-5.0, 1.0, {"name": "am_onyx", "semitones": -2}, "en-gb-scotland+m7", "onyx"),
    "luna": VoicePreset(8.0, 0.95, "af_nicole", "en-gb-scotland+f1", "shimmer"),
}


def character_of(preset: str, characters: list[str]) -> str | None:
    """The built-in character for a preset: its own name, or for Runway's nine the built-in ones in turn."""
    if preset in characters:
        return preset
    return characters[AVATAR_PRESETS.index(preset) % len(characters)] if preset in AVATAR_PRESETS else None
