"""Voices that a server with OpenAI's speech API makes: cloned from a sample, or designed from a description.

Three interfaces: OpenAI's own, and those of two servers that people run themselves. What a voice is afterwards, a
character's `voice: {openai: ...}` says; all three speak it by /v1/audio/speech.

Source: interfaces as documented by OpenAI (custom voices), github.com/travisvn/chatterbox-tts-api (voice library) and
docs.vllm.ai/projects/vllm-omni (speech API), November 2026.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2

from serve.live.avatar.voice_buffers import Sound
from serve.live.speech.endpoints import Endpoint
from serve.live.speech.voice_choice import wanted

FILE_NAMES = {"audio/wav": "sample.wav", "audio/mpeg": "sample.mp3"}
ANSWER_CHARS = 200  # of a server's own words
BASES = {"female": "nova", "male": "onyx", None: "alloy"}  # OpenAI's voices, which a description then changes


# Sound of a text in a voice (as a character's `voice`), and its samples a second; takes long, for a thread.
Speak = Callable[[dict[str, Any], str], tuple[Sound, int]]


class VoiceServerError(ValueError):
    """The server made no voice; the message is for whoever asked."""


def base_voice(prompt: str) -> str:
    """Of OpenAI's voices, one of the gender that a description asks for; nothing else was measured of them."""
    return BASES[wanted(prompt).gender]


class VoiceServer:
    """The server of `endpoints.tts`, asked for voices in the way that `endpoints.tts.makes` names."""

    def __init__(self, endpoint: Endpoint) -> None:
        assert endpoint.makes is not None, "the endpoint makes voices"
        self.endpoint, self.makes = endpoint, endpoint.makes
        self.url = (endpoint.url or "https://api.openai.com/v1").rstrip("/")

    def design(self, prompt: str) -> dict[str, Any]:
        """A voice of a description, as a character's `voice: {openai: ...}`; made anew with each sentence.

        Raises:
            VoiceServerError: this server cannot.
        """
        if self.makes == "chatterbox":
            raise VoiceServerError("The voice server clones samples and designs nothing. Send a sample of the voice.")
        if self.makes == "vllm_omni":
            return {"task_type": "VoiceDesign", "instructions": prompt}
        return {"name": self.endpoint.voice or base_voice(prompt), "instructions": prompt}

    async def clone(self, name: str, sample: bytes, kind: str, *, consent: str | None) -> dict[str, Any]:
        """A voice of a sample, as `design`. name: nobody else's on that server; consent: see `consent_of`.

        Raises:
            VoiceServerError: it made none; the message says why.
        """
        file = (FILE_NAMES.get(kind, "sample.wav"), sample, kind)
        if self.makes == "chatterbox":
            await self._ask("POST", "/voices", data={"voice_name": name}, files={"voice_file": file})
            return {"name": name}
        fields = {"name": name, "consent": self.consent_of(name, consent)}
        answer = await self._ask("POST", "/audio/voices", data=fields, files={"audio_sample": file})
        if self.makes == "vllm_omni":
            return {"name": name, "task_type": "Base"}
        if not isinstance(answer, dict) or not isinstance(answer.get("id"), str):
            raise VoiceServerError("The voice server answered without the id of a voice. Check endpoints.tts.url.")
        return {"id": answer["id"]}

    def consent_of(self, name: str, consent: str | None) -> str:
        """OpenAI wants the id of a recorded consent; vLLM-Omni keeps any text, so that it is the id of ours.

        Raises:
            VoiceServerError: one is needed.
        """
        if consent is None and self.makes == "openai":
            raise VoiceServerError(
                "OpenAI clones a voice only with the id of the speaker's recorded consent (its POST "
                "/v1/audio/voice_consents). Send it as from.consentId."
            )
        return consent or name

    async def delete(self, voice: dict[str, Any]) -> None:
        """Delete a cloned voice there; one that was designed is nowhere.

        Raises:
            VoiceServerError: it may still be there.
        """
        name = voice.get("id") or voice.get("name")
        if name is None or "instructions" in voice:
            return
        path = "/voices/" if self.makes == "chatterbox" else "/audio/voices/"
        await self._ask("DELETE", path + quote(name, safe=""), missing_is_fine=True)

    async def _ask(self, method: str, path: str, *, missing_is_fine: bool = False, **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.endpoint.key}"}
        try:
            async with httpx2.AsyncClient(timeout=self.endpoint.timeout) as client:
                answer = await client.request(method, self.url + path, headers=headers, **more)
        except httpx2.HTTPError as error:
            raise VoiceServerError(
                f"The voice server at {self.url} cannot be reached ({type(error).__name__}). Check endpoints.tts.url."
            ) from error
        if answer.is_success or (missing_is_fine and answer.status_code == 404):
            try:
                return answer.json()
            except ValueError:
                return None
        said = " ".join(answer.text.split())[:ANSWER_CHARS]
        raise VoiceServerError(f"The voice server answered {answer.status_code} to {method} {path}: {said}")


def voice_server(tts: str, endpoint: Endpoint) -> VoiceServer | None:
    """Of a choice of voices; None: it makes none."""
    return VoiceServer(endpoint) if tts == "openai" and endpoint.makes is not None else None


@dataclass(frozen=True, slots=True)
class Speech:
    """How a server speaks outside of conversations, in previews and films."""

    tts: str
    speak: Speak
    maker: VoiceServer | None = None  # None: voices are chosen among those that there are
