"""The voices of one kind that run here, loaded once for all sessions."""

from serve.live.options import one_of
from serve.live.speech.espeak_voice import Espeak
from serve.live.speech.kokoro_voice import DEFAULT, Kokoro
from serve.live.speech.voices import EndpointVoice, EspeakVoice, PiperVoice, Tuning, Voice

LOCAL_VOICES = ("piper", "kokoro", "espeak")


class LocalVoices:
    """Raises:
    ValueError: there is no such kind.
    MissingPackageError, FileNotFoundError: what it needs is not installed.
    """

    def __init__(self, tts: str) -> None:
        one_of("tts", tts, LOCAL_VOICES)
        self.library = Espeak()
        self.piper = PiperVoice(self.library) if tts == "piper" else None
        self.kokoro = Kokoro(self.library) if tts == "kokoro" else None

    def voice(self, wish: str | Tuning | EndpointVoice | None) -> Voice:
        """One of them, as `voice_among` reads a character's `voice:`; None: their default.

        Raises:
            ValueError: there is no such voice.
        """
        assert not isinstance(wish, EndpointVoice), "voices of an endpoint do not run here"
        if self.piper:
            return self.piper.tuned(wish) if isinstance(wish, Tuning) else self.piper
        if self.kokoro:
            tuning = wish if isinstance(wish, Tuning) else Tuning(name=wish)
            return self.kokoro.voice(tuning.name or DEFAULT, tuning)
        return EspeakVoice(self.library, name=str(wish or "en-us"))
