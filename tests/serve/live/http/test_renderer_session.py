"""The face alone, driven by somebody else's agent."""

import asyncio
import base64
import io
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from aiohttp import ClientWebSocketResponse, WSMsgType
from aiohttp.test_utils import TestClient
from PIL import Image

from serve.live.http.renderer_session import BURST_MESSAGES, HEADER, SPEECH_S, WAITING_MESSAGES, Renderer
from serve.live.http.session import Timeouts
from tests.serve.live.server_kit import DEADLINE_S, Kit, serving

FRAME = 1_000


class Watcher:
    """The other end of the websocket."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.socket = socket
        self.messages: list[dict[str, Any]] = []
        self.voice: list[np.ndarray] = []
        self.levels: list[int | None] = []  # of each frame, None where the picture stayed

    async def send(self, kind: str, voice: np.ndarray | None = None) -> None:
        audio = {} if voice is None else {"audio": base64.b64encode((voice * 2**15).astype("<i2").tobytes()).decode()}
        await self.socket.send_json({"type": kind, **audio})

    async def watch(self, frames: int) -> None:
        while frames:
            message = await self.socket.receive(timeout=DEADLINE_S)
            if message.type is WSMsgType.TEXT:
                self.messages.append(message.json())
                continue
            frames -= 1
            sample, length = HEADER.unpack_from(message.data)
            assert sample == FRAME * len(self.levels)
            jpeg, voice = message.data[HEADER.size :][:length], message.data[HEADER.size + length :]
            self.levels.append(int(np.asarray(Image.open(io.BytesIO(jpeg))).mean().round()) if jpeg else None)
            self.voice.append(np.frombuffer(voice, "<i2"))


def rendered(script: Callable[[Kit, Watcher], Awaitable[None]]) -> tuple[Kit, Watcher]:
    async def run() -> tuple[Kit, Watcher]:
        async with serving() as (kit, client):
            async with await socket_of(client) as socket:
                watcher = Watcher(socket)
                await script(kit, watcher)
        return kit, watcher

    return asyncio.run(run())


async def socket_of(client: TestClient) -> ClientWebSocketResponse:
    session = await (await client.post("/v1/sessions", json={"mode": "renderer"})).json()
    headers = {"Authorization": f"Bearer {session['session_key']}"}
    return await client.ws_connect(f"/v1/sessions/{session['id']}/renderer", headers=headers)


def test_speech_comes_back_with_its_frames_and_its_end():
    async def script(kit: Kit, watcher: Watcher) -> None:
        await watcher.watch(6)
        await watcher.send("agent.speak", np.full(12 * FRAME, 0.5))
        await watcher.send("agent.speak_end")
        await watcher.watch(40)

    _, watcher = rendered(script)
    heard = np.concatenate(watcher.voice)
    assert (heard != 0).sum() == 12 * FRAME
    for level, voice in zip(watcher.levels, watcher.voice):
        if level is not None:
            assert abs(level - (50 if voice.any() else 0)) <= 2
    facts = {"sample_rate": 24_000, "frame_samples": 1_000, "width": 48, "height": 32}
    assert watcher.messages == [{"type": "session.ready", **facts}, {"type": "agent.spoken"}]


def test_interruption_silences_the_next_frame():
    async def script(kit: Kit, watcher: Watcher) -> None:
        await watcher.send("agent.speak", np.full(240 * FRAME, 0.5))
        await watcher.watch(30)
        assert watcher.voice[-1].all()
        await watcher.send("agent.interrupt")
        for _ in range(200):  # what was on its way comes first
            await watcher.watch(1)
            if not watcher.voice[-1].any():
                break
        await watcher.watch(12)

    _, watcher = rendered(script)
    assert len(watcher.voice) < 240 and not np.concatenate(watcher.voice[-13:]).any()


def test_wrong_messages_are_answered_and_speech_is_bounded():
    async def script(kit: Kit, watcher: Watcher) -> None:
        for text in ("{", "[]", '{"type": "dance"}', '{"type": "agent.speak", "audio": "!"}'):
            await watcher.socket.send_str(text)
        for _ in range(round(SPEECH_S / 10) + 1):
            await watcher.send("agent.speak", np.full(240_000, 0.5))
        while len(errors(watcher)) < 5:
            await watcher.watch(1)

    _, watcher = rendered(script)
    assert "must be JSON" in errors(watcher)[0] and "'dance' is not known" in errors(watcher)[2]
    assert "lie ready" in errors(watcher)[4]


def errors(watcher: Watcher) -> list[str]:
    return [message["message"] for message in watcher.messages if message["type"] == "error"]


def test_the_place_is_free_when_the_connection_ends():
    async def script(kit: Kit, watcher: Watcher) -> None:
        await watcher.watch(2)
        await watcher.socket.close()
        async with asyncio.timeout(DEADLINE_S):
            while kit.admission.sessions:
                await asyncio.sleep(0.05)

    kit, _ = rendered(script)
    assert kit.faces[0].stops == 1


def test_a_renderer_ends_when_its_time_is_over_and_says_so():
    async def run() -> None:
        async with serving(timeouts=Timeouts(connect_s=5.0, reconnect_s=5.0, session_s=1.0)) as (kit, client):
            async with await socket_of(client) as socket:
                async for message in socket:
                    assert message.type in (WSMsgType.TEXT, WSMsgType.BINARY)
                assert socket.close_code == 1000 and not kit.admission.sessions

    asyncio.run(run())


def test_a_client_that_reads_no_answers_is_disconnected():
    """Its answers would fill the memory."""

    async def run() -> None:
        async with serving() as (kit, client):
            session = await (await client.post("/v1/sessions", json={"mode": "renderer"})).json()
            renderer = kit.admission.get(session["id"], Renderer)
            for _ in range(WAITING_MESSAGES + 1):
                assert renderer.id in kit.admission.sessions
                renderer._reply({"type": "agent.spoken"})
            await asyncio.sleep(0.2)
            assert not kit.admission.sessions

    asyncio.run(run())


def test_a_flood_of_messages_is_taken_at_a_bounded_rate():
    """The rest waits in the client's own buffers, and nobody else's sound does."""

    async def script(kit: Kit, watcher: Watcher) -> None:
        for _ in range(20 * BURST_MESSAGES):
            await watcher.socket.send_str('{"type": "dance"}')
        await watcher.watch(12)  # half a second

    _, watcher = rendered(script)
    assert 0 < len(errors(watcher)) < 14 * BURST_MESSAGES
