"""A server with faces that draw loudness and a voice that hums, behind a real port; and a browser of aiortc."""

import asyncio
import contextlib
import io
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp.test_utils import TestClient, TestServer
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaStreamError
from aiortc.mediastreams import AudioStreamTrack, VideoStreamTrack
from PIL import Image
from pipecat.processors.frame_processor import FrameProcessor

from gwm.condition.spec import Control
from gwm.media.framing import Framing
from gwm.resolution import Resolution
from serve.live.avatar.changes import SessionControls
from serve.live.characters import Character
from serve.live.gauges import Gauges
from serve.live.http.admission import Admission
from serve.live.http.api import Api
from serve.live.http.conversation import Conversation
from serve.live.http.ice import IceServers
from serve.live.http.peer import close_connection
from serve.live.http.renderer_session import Renderer
from serve.live.http.session import SessionParts, Timeouts
from serve.live.low_priority import LowPriority
from serve.live.speech.agent import Services, TurnTaking
from serve.live.speech.services import LocalSTT, LocalTTS, RuleLLM
from serve.live.vision.pictures import SOURCES, Picture
from serve.live.vision.reader import Words
from serve.live.vision.sight import Vision
from tests.serve.live.level_face import TIMING, LevelFace
from tests.serve.live.speech.test_agent import Deaf, Hum

DEADLINE_S = 60.0  # for what must happen; a busy machine takes seconds for what takes none
TIMEOUTS = Timeouts(connect_s=DEADLINE_S, reconnect_s=DEADLINE_S, session_s=10 * DEADLINE_S)
CONTROLS = SessionControls(
    prompt=True,
    actions=(Control("forward"), Control("left")),
    code=(Control("jawOpen", 0.0, 1.0),),
    rewind_chunks=6,
    chunk_s=1 / 6,
    keyframes=True,
)
GREETING = "Good to see you."


class RedReader:
    """Puts a picture into words by how red it is; a network would take seconds."""

    async def words(self, picture: Picture, before: np.ndarray | None) -> Words:
        red = np.asarray(Image.open(io.BytesIO(picture.jpeg)))[..., 0].mean()
        return Words(f"{picture.source} of red {10 * round(red / 10)}", None)

    def close(self) -> None: ...


class Kit:
    """What a test looks at."""

    def __init__(self, *, capacity: int, timeouts: Timeouts) -> None:
        self.faces: list[LevelFace] = []
        self.capacity = capacity
        self.timeouts, self.gauges, self.pool = timeouts, Gauges(), LowPriority()
        self.ice_servers = IceServers([])
        self.make_llm: Callable[[Character], FrameProcessor] = lambda character: RuleLLM(
            name=character.name, knowledge=character.knowledge
        )
        self.vision: Vision | None = Vision(SOURCES, RedReader())
        portrait = np.zeros((32, 48, 3), np.uint8)
        self.character = Character("noa", "Noa", portrait, "Be kind.", start_script=GREETING)
        self.admission = Admission(capacity=lambda: self.capacity, retry_after_s=30, gauges=self.gauges)
        self.api = Api(
            self.admission,
            {"noa": self.character},
            make_conversation=self._session,
            make_renderer=self._renderer,
            framing=Framing(Resolution(32, 48)),
            controls=CONTROLS,
            hosts={"127.0.0.1"},
            origins={"https://friend.example"},
            trusted_proxies=["127.0.0.1"],
            requests_per_minute=1_000,
            gauges=self.gauges,
        )

    def _parts(self, session_id: str, character: Character, on_end: Callable[[], None]) -> SessionParts:
        self.faces.append(LevelFace())
        return SessionParts(
            id=session_id,
            character=character,
            face=self.faces[-1],
            timing=TIMING,
            timeouts=self.timeouts,
            gauges=self.gauges,
            on_end=on_end,
        )

    def _renderer(self, session_id: str, character: Character, on_end: Callable[[], None]) -> Renderer:
        return Renderer(self._parts(session_id, character, on_end))

    def _session(self, session_id: str, character: Character, on_end: Callable[[], None]) -> Conversation:
        stt, tts = LocalSTT(Deaf(), self.pool), LocalTTS(Hum(), self.pool, sample_rate=24_000)
        return Conversation(
            self._parts(session_id, character, on_end),
            Services(stt, self.make_llm(character), tts),
            turn_taking=TurnTaking(),
            ice_servers=self.ice_servers,
            vision=self.vision,
        )


Mount = Callable[[Api], contextlib.AbstractAsyncContextManager[Any]]


@contextlib.asynccontextmanager
async def no_mount(api: Api) -> AsyncIterator[None]:
    yield


@contextlib.asynccontextmanager
async def serving(
    *, capacity: int = 2, timeouts: Timeouts = TIMEOUTS, mount: Mount = no_mount
) -> AsyncIterator[tuple[Kit, TestClient]]:
    """A kit and a client of its port; afterwards tasks, sockets and places must be as they were before."""
    kit = Kit(capacity=capacity, timeouts=timeouts)
    async with nothing_left_behind(), mount(kit.api), TestClient(TestServer(kit.api.app)) as client:
        try:
            yield kit, client
        finally:
            await kit.admission.drain(within_s=0.0)
            kit.pool.close()
    stops = [face.stops for face in kit.faces]
    assert not kit.admission.sessions and set(stops) <= {1}, f"{kit.admission.sessions}, stops {stops}"


@contextlib.asynccontextmanager
async def nothing_left_behind() -> AsyncIterator[None]:
    """Tasks of the loop and sockets of the process are counted before and, when they had time to end, after."""
    before, sockets_before = asyncio.all_tasks(), open_sockets()
    yield
    for _ in range(round(10 * DEADLINE_S)):
        left = {task for task in asyncio.all_tasks() - before if not task.done()}
        sockets = open_sockets() - sockets_before
        if not left and sockets <= 0:  # an earlier test may have left some to the garbage collector
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{len(left)} tasks and {sockets} sockets were left behind: {left}")


def open_sockets() -> int:
    """Of this process."""
    links = Path("/proc/self/fd").iterdir()
    return sum(os.readlink(link).startswith("socket:") for link in links if link.is_symlink())


class Browser:
    """The page's side of a connection."""

    def __init__(
        self, *, channel: bool = True, camera: bool = False, configuration: RTCConfiguration | None = None
    ) -> None:
        self.connection = RTCPeerConnection(configuration)
        self.events: list[str] = []
        self.pictures: list[Any] = []
        self.sounds: list[Any] = []
        self._tasks: list[asyncio.Task[None]] = []
        if channel:
            self.channel = self.connection.createDataChannel("events")
            self.channel.on("message", self.events.append)
        self.connection.addTrack(AudioStreamTrack())
        if camera:
            self.connection.addTrack(VideoStreamTrack())
        else:
            self.connection.addTransceiver("video", direction="recvonly")
        self.connection.on("track", self._watch)

    async def connect(self, client: TestClient, session: dict[str, Any]) -> dict[str, str]:
        """The answer, which holds the key of the next connection."""
        await self.connection.setLocalDescription(await self.connection.createOffer())
        answer = await offer(client, session, self.connection.localDescription.sdp)
        assert "sdp" in answer, answer
        await self.connection.setRemoteDescription(RTCSessionDescription(answer["sdp"], "answer"))
        return answer

    def cut(self) -> None:
        """Nothing is sent any more, not even that it ends; aiortc has no public switch for that."""
        for protocol in self.channel.transport.transport.transport._connection._protocols:
            protocol.transport.sendto = lambda data, address=None: None

    async def __aenter__(self) -> "Browser":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await close_connection(self.connection)

    def _watch(self, track: Any) -> None:
        kept = self.pictures if track.kind == "video" else self.sounds

        async def receive() -> None:
            with contextlib.suppress(MediaStreamError):
                while True:
                    kept.append(await track.recv())

        self._tasks.append(asyncio.create_task(receive()))


async def offer(client: TestClient, session: dict[str, Any], sdp: str) -> dict[str, str]:
    response = await client.post(
        f"/v1/sessions/{session['id']}/offer",
        json={"sdp": sdp},
        headers={"Authorization": f"Bearer {session['session_key']}"},
    )
    return {"status": str(response.status), **await response.json()}


async def opened(client: TestClient) -> dict[str, Any]:
    response = await client.post("/v1/sessions", json={})
    assert response.status == 201, await response.text()
    return await response.json()
