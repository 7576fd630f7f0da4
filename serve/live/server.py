"""The parts put together: artifact, engine process, services, characters, HTTP; and their end in the right order."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from gwm.contract import Contract
from serve.artifact import read_manifest
from serve.live.agent import TurnTaking
from serve.live.api import Api
from serve.live.characters import Character, read_characters
from serve.live.endpoints import Endpoint
from serve.live.engine_process import EngineProcess, ProcessFace
from serve.live.gauges import Gauges
from serve.live.lobby import Lobby, measured_capacity
from serve.live.performer import Beat
from serve.live.profile import Profile
from serve.live.renderer import Renderer
from serve.live.session import Patience, Session

log = logging.getLogger(__name__)

LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """configs/serve.yaml, read."""

    artifact: str
    characters: str
    host: str
    port: int
    hosts: list[str]  # names under which the server may be asked for, besides localhost and `host`; "*" for any
    origins: list[str]  # of other sites whose pages may use it
    device: str | None
    num_threads: int | None
    lead_ms: float
    capacity: int | None  # None: measured at the start
    retry_after_s: int
    drain_s: float
    requests_per_minute: int
    ice_servers: list[str]
    seed: int
    stt: str
    llm: str
    tts: str


def beat_of(contract: Contract, lead_ms: float) -> Beat:
    audio = contract.audio
    return Beat(
        chunk_samples=contract.chunk_pixel_frames * audio.frame_samples,
        lookahead_samples=audio.lookahead_frames * audio.frame_samples,
        frame_samples=audio.frame_samples,
        sample_rate=audio.sample_rate,
        lead_samples=round(lead_ms * audio.sample_rate / 1000),
    )


@contextlib.asynccontextmanager
async def running_app(
    options: ServerOptions, *, patience: Patience, turn_taking: TurnTaking, endpoints: dict[str, Endpoint]
) -> AsyncIterator[Api]:
    """Everything behind the port.

    Raises:
        FileNotFoundError, ValueError: artifact, characters or a choice cannot be used.
        FaceLostError: the engine does not start.
        MissingPackageError: what a choice needs is not installed.
    """
    contract = Contract.from_json(read_manifest(Path(options.artifact))["contract"])
    beat, gauges = beat_of(contract, options.lead_ms), Gauges()
    characters = read_characters(Path(options.characters), contract.resolution)
    profile = Profile(
        stt=options.stt, llm=options.llm, tts=options.tts, endpoints=endpoints, sample_rate=beat.sample_rate
    )
    engines = EngineProcess(options.artifact, device=options.device, num_threads=options.num_threads)

    def face(session_id: str, character: Character) -> ProcessFace:
        return ProcessFace(engines, session_id, character.portrait, seed=options.seed)

    def session(session_id: str, character: Character, on_end: Callable[[], None]) -> Session:
        return Session(
            session_id,
            character,
            face(session_id, character),
            profile.services(character),
            beat=beat,
            turn_taking=turn_taking,
            patience=patience,
            ice_servers=options.ice_servers,
            gauges=gauges,
            on_end=on_end,
        )

    def renderer(session_id: str, character: Character, on_end: Callable[[], None]) -> Renderer:
        parts = session_id, character, face(session_id, character)
        return Renderer(*parts, beat=beat, patience=patience, gauges=gauges, on_end=on_end)

    try:
        await engines.start()
        step_ms = await engines.call("measure")
        capacity = options.capacity or measured_capacity(step_ms, contract.chunk_ms)
        log.info("a chunk of %.0f ms takes %.0f ms: room for %d sessions", contract.chunk_ms, step_ms, capacity)
        lobby = Lobby(capacity=capacity, retry_after_s=options.retry_after_s, gauges=gauges)
        yield Api(
            lobby,
            characters,
            make_session=session,
            make_renderer=renderer,
            resolution=contract.resolution,
            hosts={*LOCAL_HOSTS, options.host, *options.hosts},
            origins=set(options.origins),
            requests_per_minute=options.requests_per_minute,
            gauges=gauges,
        )
    finally:
        await engines.close()
        profile.close()


async def serve_until_signal(
    options: ServerOptions, *, patience: Patience, turn_taking: TurnTaking, endpoints: dict[str, Endpoint]
) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain.

    Raises:
        OSError: the port is taken.
        FileNotFoundError, ValueError, FaceLostError, MissingPackageError: as `running_app`.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running_app(options, patience=patience, turn_taking=turn_taking, endpoints=endpoints) as api:
        runner = web.AppRunner(api.app)
        await runner.setup()
        try:
            await web.TCPSite(runner, options.host, options.port).start()
            log.info(
                "talk to %s: http://%s:%d",
                ", ".join(c.name for c in api.characters.values()),
                options.host,
                options.port,
            )
            await stop.wait()
            log.info("stopping: nobody new is let in")
        finally:
            await api.lobby.drain(patience_s=options.drain_s)
            await runner.cleanup()
