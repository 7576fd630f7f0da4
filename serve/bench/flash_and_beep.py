"""Sound against picture in a real browser: an engine that whitens the picture at every beep, and a page that looks.

Everything but the network is the live server's own: agent, performer, playout, tracks, connection and page. What the
page measures is when the white picture is due on the screen and when the beep is due at the loudspeaker, so its own
delays are in it. How large they are is measured too: the page sends itself flashes and beeps of one moment.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
from aiohttp import web
from jaxtyping import UInt8

from gwm.clock import SAMPLE_RATE, SAMPLES_PER_FRAME
from gwm.media.framing import Framing
from gwm.resolution import Resolution
from serve.acts import Applied
from serve.bench.browser import open_browser, open_page, start_talking
from serve.bench.live_numbers import SETTLE_S, drift, paired
from serve.live.avatar.changes import Change, ChangeRefusedError, SessionControls
from serve.live.avatar.chunk_times import StreamTiming
from serve.live.avatar.voice_buffers import Ahead, Sound
from serve.live.characters import Character
from serve.live.gauges import Gauges
from serve.live.http.admission import Admission
from serve.live.http.api import Api
from serve.live.http.conversation import Conversation
from serve.live.http.ice import IceServers
from serve.live.http.refusals import NotHereError
from serve.live.http.renderer_session import Renderer
from serve.live.http.session import SessionParts, Timeouts
from serve.live.low_priority import LowPriority
from serve.live.speech.agent import Services, TurnTaking
from serve.live.speech.services import LocalSTT, LocalTTS, RuleLLM

RATE, FRAME = SAMPLE_RATE, SAMPLES_PER_FRAME
SIDE = 128
TIMING = StreamTiming(
    chunk_samples=4 * FRAME, lookahead_samples=0, frame_samples=FRAME, sample_rate=RATE, lead_samples=7_200
)
PERIOD_FRAMES = 25  # not a whole number of sound packets: every phase between picture and packet comes
WITHIN_MS = 400.0


class FlashFace:
    """White where a frame's sound is loud, black elsewhere."""

    async def start(self) -> None: ...

    async def step(self, agent: Ahead, user: Sound, *, within_s: float = 0.0) -> UInt8[np.ndarray, "f h w 3"]:
        loud = np.abs(agent.reshape(-1, FRAME)).max(axis=1) > 0.1
        return np.broadcast_to(np.where(loud, 255, 0).astype(np.uint8)[:, None, None, None], (len(loud), SIDE, SIDE, 3))

    async def stop(self) -> None: ...

    async def change(self, change: Change) -> Applied:
        raise ChangeRefusedError("it shows flashes alone.")


class Beeper:
    """A voice that beeps for so many seconds, whatever its text is; each beep fills one frame."""

    sample_rate = RATE

    def __init__(self, seconds: float) -> None:
        beep = np.zeros((round(seconds * RATE / FRAME / PERIOD_FRAMES), PERIOD_FRAMES, FRAME), np.float32)
        beep[:, -1] = 0.5 * np.cos(2 * np.pi * 1_000 * np.arange(FRAME) / RATE)
        self.sound = beep.reshape(-1)

    def speak(self, text: str) -> Sound:
        return self.sound


class Deaf:
    def transcribe(self, voice: Sound) -> str:
        return ""


@contextlib.asynccontextmanager
async def flashing_server(seconds: float) -> AsyncIterator[str]:
    """The URL of a server in this process, on a free port."""
    gauges, pool = Gauges(), LowPriority()
    portrait = np.zeros((SIDE, SIDE, 3), np.uint8)
    character = Character("flash", "Flash", portrait, personality="", start_script="Beep.")

    def session(session_id: str, character: Character, on_end: Callable[[], None]) -> Conversation:
        tts = LocalTTS(Beeper(seconds), pool, sample_rate=RATE)
        parts = SessionParts(
            id=session_id,
            character=character,
            face=FlashFace(),
            timing=TIMING,
            timeouts=Timeouts(connect_s=60, reconnect_s=10, session_s=seconds + 120),
            gauges=gauges,
            on_end=on_end,
        )
        services = Services(LocalSTT(Deaf(), pool), RuleLLM(name=character.name), tts)
        return Conversation(parts, services, turn_taking=TurnTaking(), ice_servers=IceServers([]))

    def renderer(session_id: str, character: Character, on_end: Callable[[], None]) -> Renderer:
        raise NotHereError("This server only flashes and beeps.")

    admission = Admission(capacity=lambda: 1, retry_after_s=30, gauges=gauges)
    api = Api(
        admission,
        {"flash": character},
        make_conversation=session,
        make_renderer=renderer,
        framing=Framing(Resolution(SIDE, SIDE)),
        controls=SessionControls(
            prompt=False, actions=(), code=(), rewind_chunks=0, chunk_s=TIMING.chunk_samples / RATE
        ),
        hosts={"127.0.0.1"},
        origins=set(),
        trusted_proxies=[],
        requests_per_minute=30,
        gauges=gauges,
    )
    runner = web.AppRunner(api.app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await admission.drain(within_s=0)
        await runner.cleanup()
        pool.close()


async def flash_minus_beep(seconds: float) -> dict[str, dict[str, float | int]]:
    """Milliseconds by which the picture comes after its sound, negative where it comes first: spread and drift.

    Of the server, and of the page that sends itself ("bias"), each when the browser has had time to align the two.
    """
    with TemporaryDirectory() as folder:
        silence = Path(folder) / "silence.wav"
        soundfile.write(silence, np.zeros(48_000, np.float32), 48_000)
        async with flashing_server(seconds + SETTLE_S) as url, open_browser(silence) as browser:
            page = await open_page(browser, url, bypass_policy=True)
            await start_talking(page)
            server = await _detected(page, seconds)
            await page.context.close()
            page = await open_page(browser, url, bypass_policy=True)
            await page.evaluate("window.loop()")
            return {"server": server, "bias": await _detected(page, seconds)}


async def _detected(page: Any, seconds: float) -> dict[str, float | int]:
    await asyncio.sleep(SETTLE_S)
    await page.evaluate("window.detect()")
    await asyncio.sleep(seconds)
    seen = await page.evaluate("window.seen.detected")
    return drift(paired(seen["flashes"], seen["beeps"], within_ms=WITHIN_MS))
