"""The API on the live server of `server_kit`, with a store in a file and a voice that hums."""

import asyncio
import base64
import contextlib
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web
from aiohttp.test_utils import TestClient
from PIL import Image

from serve.live.http.api import Api
from serve.live.speech.sentence_vectors import TextVectors
from serve.live.speech.voice_servers import Speak, Speech, VoiceServer
from serve.runway_api.films import Film, FilmOptions, MakeFilm, Refilm
from serve.runway_api.meeting_bots import MeetingOptions
from serve.runway_api.mount import ApiOptions, mounted
from serve.store.database import Store
from serve.store.keys import Limits, add_key
from tests.serve.live.server_kit import DEADLINE_S, TIMEOUTS, Kit, serving

RATE = 24_000
VOICE = {"type": "runway-live-preset", "presetId": "clara"}
PRESET = {"type": "runway-preset", "presetId": "game-character"}


def hum(voice: dict[str, Any], text: str) -> tuple[np.ndarray, int]:
    """A tenth of a second of 200 Hz for each character."""
    return np.sin(2 * np.pi * 200 * np.arange(len(text) * RATE // 10) / RATE).astype(np.float32), RATE


class Films:
    """Done at once, or for more than 5 s of sound never; of another film, what its command is given as JSON."""

    def __init__(self, *, refused: tuple[str, ...] = ()) -> None:
        self.refused = refused

    def refuses(self, command: str) -> str | None:
        return f"No {command}." if command in self.refused else None

    async def __call__(
        self, film: Film | Refilm, folder: Path, go_on: Callable[[float], Awaitable[bool]]
    ) -> Path | None:
        if isinstance(film, Film):
            while len(film.sound) > 5 * RATE:
                if not await go_on(0.5):
                    return None
                await asyncio.sleep(0.02)
        path = folder / "film.mp4"
        if isinstance(film, Film):
            path.write_bytes(b"film of %d samples" % len(film.sound))
        else:
            path.write_text(json.dumps(dict(film.settings)))
        return path


def picture(size: tuple[int, int] = (300, 200), form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (10, 120, 200)).save(buffer, form)
    return buffer.getvalue()


def inline(data: bytes, kind: str = "image/jpeg") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


AVATAR = {"name": "Vera", "personality": "Be brief.", "referenceImage": inline(picture()), "voice": VOICE}


@dataclass
class Served:
    """A running server: its parts, and a client with a secret key."""

    kit: Kit
    store: Store
    http: TestClient
    key: str

    async def ask(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, status: int = 200, **headers: str
    ) -> Any:
        """The JSON of an answer, whose status must be as expected."""
        text = self.key if key is None else key
        given = {"Authorization": f"Bearer {text}"} | {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.request(method, f"/v1{path}", json=body, headers=given) as response:
            assert response.status == status, (method, path, response.status, await response.text())
            return None if response.status == 204 else await response.json()

    async def until(self, path: str, *statuses: str) -> dict[str, Any]:
        """The answer of a path once its status is one of these."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                found = await self.ask("GET", path)
                if found["status"] in statuses:
                    return found
                await asyncio.sleep(0.02)


def served(
    script: Callable[[Served], Awaitable[None]],
    folder: Path,
    *,
    capacity: int = 2,
    timeouts=TIMEOUTS,
    allows: Callable[[str], bool] = lambda address: False,
    speak: Speak = hum,
    **more: Any,
) -> None:
    async def run() -> None:
        async with running(folder, capacity=capacity, timeouts=timeouts, allows=allows, speak=speak, **more) as one:
            await script(one)

    asyncio.run(run())


@contextlib.asynccontextmanager
async def running(
    folder: Path,
    *,
    capacity: int = 2,
    timeouts=TIMEOUTS,
    speak: Speak = hum,
    tts: str = "kokoro",
    maker: VoiceServer | None = None,
    meetings: MeetingOptions | None = None,
    make_vectors: Callable[[], TextVectors | None] = lambda: None,
    films: MakeFilm | None = None,
    upload_mb: float = 16.0,
    **more,
) -> AsyncIterator[Served]:
    stores: list[Store] = []
    url = f"sqlite:///{folder}/gwm.sqlite"
    made_in = FilmOptions(work=f"{folder}/films", max_upload_mb=upload_mb)
    options = ApiOptions(store=url, public_url=None, retention_days=None, meetings=meetings, films=made_in)

    @contextlib.asynccontextmanager
    async def mount(api: Api) -> AsyncIterator[None]:
        speech, make = Speech(tts, speak, maker), films or Films()
        given = {"prints_first_key": False, "make_vectors": make_vectors, **more}
        async with mounted(api, speech, options=options, make_film=make, **given) as made:
            assert made is not None
            stores.append(made.store)
            yield

    async with serving(capacity=capacity, timeouts=timeouts, mount=mount) as (kit, client):
        key = stores[0].do(lambda db: add_key(db, "test", Limits(origins=[])))
        yield Served(kit, stores[0], client, key)


@contextlib.asynccontextmanager
async def site(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Somebody else's server on this machine."""
    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    listening = web.TCPSite(runner, "127.0.0.1", 0)
    await listening.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
