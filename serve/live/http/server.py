"""The parts put together: artifact, engine process, services, characters, HTTP; and their end in the right order."""

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from gwm.contract import Contract
from serve.artifact import PLACES, read_manifest
from serve.live.avatar.changes import SessionControls
from serve.live.avatar.engine_pool import EnginePool
from serve.live.avatar.engine_process import ProcessFace, ReadPicture
from serve.live.avatar.engines import EngineOptions, serve_engines
from serve.live.avatar.performer import StreamTiming
from serve.live.avatar.text_process import TextProcess
from serve.live.characters import Character, manner_of, read_characters, read_places
from serve.live.gauges import Gauges
from serve.live.http.admission import Admission
from serve.live.http.api import Api
from serve.live.http.conversation import Conversation
from serve.live.http.ice import IceServers
from serve.live.http.page_session import PageSession
from serve.live.http.port import bound_sockets, encryption, listening
from serve.live.http.renderer_session import Renderer
from serve.live.http.session import SessionParts, Timeouts
from serve.live.http.tracks import set_video_bitrate
from serve.live.http.uploads import Uploads
from serve.live.http.walk import Walk
from serve.live.options import ServerOptions
from serve.live.speech.agent import TurnTaking
from serve.live.speech.endpoints import Endpoint
from serve.live.speech.mcp_server import McpServer
from serve.live.speech.picture_probe import takes_pictures
from serve.live.speech.profile import Profile
from serve.live.speech.tools import Tool
from serve.live.speech.voice_servers import Speech
from serve.live.traces import SessionTrace, Traces
from serve.live.vision.pictures import SOURCES
from serve.live.vision.reader import Reader, readable
from serve.live.vision.sight import EVERY_SECOND, METHODS, ON_REQUEST, Vision
from serve.scheduler import POLICIES

log = logging.getLogger(__name__)

LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}
# What makes sound of a text in a character's `voice`, with its rate; None where the voices are an endpoint's.
ServeEngines = Callable[[Connection, EngineOptions], None]  # in a process of its own
Mount = Callable[[Api, Speech], contextlib.AbstractAsyncContextManager[object]]


def timing_of(contract: Contract, lead_ms: float, *, overlap: bool) -> StreamTiming:
    """overlap: chunks are one more behind, as one is decoded while the next is denoised."""
    audio = contract.audio
    return StreamTiming(
        chunk_samples=contract.chunk_pixel_frames * audio.frame_samples,
        lookahead_samples=contract.lookahead_samples,
        frame_samples=audio.frame_samples,
        sample_rate=audio.sample_rate,
        lead_samples=round(lead_ms * audio.sample_rate / 1000),
        in_flight_chunks=1 if overlap else 0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionMaker:
    """Makes sessions of what all of them share."""

    engines: EnginePool
    texts: TextProcess | None
    pictures: ReadPicture | None  # of keyframes; None: the model takes none
    profile: Profile | None  # None: a world, without sound
    timing: StreamTiming
    seed: int
    ice_servers: IceServers
    turn_taking: TurnTaking
    timeouts: Timeouts
    gauges: Gauges
    manners: dict[str, dict[str, float]]  # of characters, as far as the model has them
    tools: list[Tool] = field(default_factory=list)  # of every conversation
    vision: Vision | None = None  # None: nobody looks at what visitors show
    traces: Traces | None = None

    def conversation(self, session_id: str, character: Character, on_end: Callable[[], None]) -> PageSession:
        parts = self._parts(session_id, character, on_end)
        if self.profile is None:
            return Walk(parts, ice_servers=self.ice_servers)
        conversation = Conversation(
            parts,
            self.profile.services(character),
            turn_taking=self.turn_taking,
            ice_servers=self.ice_servers,
            vision=self.vision,
        )
        conversation.agent.offer(self.tools)
        return conversation

    def renderer(self, session_id: str, character: Character, on_end: Callable[[], None]) -> Renderer:
        return Renderer(self._parts(session_id, character, on_end))

    def _parts(self, session_id: str, character: Character, on_end: Callable[[], None]) -> SessionParts:
        return SessionParts(
            id=session_id,
            character=character,
            face=ProcessFace(
                self.engines.place(session_id),
                session_id,
                character.portrait,
                seed=self.seed,
                texts=self.texts,
                pictures=self.pictures,
                manner=self.manners.get(character.key, {}),  # avatars have none
            ),
            timing=self.timing,
            timeouts=self.timeouts,
            gauges=self.gauges,
            on_end=on_end,
            trace=None if self.traces is None else SessionTrace(self.traces, session_id),
        )

    def close(self) -> None:
        if self.texts is not None:
            self.texts.close()
        if self.profile is not None:
            self.profile.close()
        if self.vision is not None and self.vision.reader is not None:
            self.vision.reader.close()


async def vision_of(options: ServerOptions, profile: Profile | None) -> Vision | None:
    """What is done with pictures that visitors show; None: nothing, and none are taken."""
    if options.vision == "off" or profile is None:
        return None
    mode = ON_REQUEST if options.vision == "on_request" else EVERY_SECOND
    if options.llm == "openai" and await takes_pictures(profile.callers["llm"]):
        return Vision(SOURCES, None, mode)
    sources = readable()
    for source in sources:
        log.info("vision: a visitor's %s is looked at by %s, as no model here sees", source, METHODS[source])
    return Vision(sources, Reader(), mode) if sources else None


def session_maker(
    options: ServerOptions,
    contract: Contract,
    characters: dict[str, Character],
    *,
    timeouts: Timeouts,
    turn_taking: TurnTaking,
    endpoints: dict[str, Endpoint],
    uploads: Uploads,
    serve: ServeEngines = serve_engines,
) -> SessionMaker:
    """What the options choose; the engine process is not started yet.

    Raises:
        ValueError, MissingPackageError: as `running_app`.
    """
    timing = timing_of(contract, options.lead_ms, overlap=options.overlap == "on")
    profile = None
    if contract.takes_sound:
        profile = Profile(
            stt=options.stt,
            llm=options.llm,
            tts=options.tts,
            endpoints=endpoints,
            characters=characters,
            sample_rate=timing.sample_rate,
        )
    gauges, framing = Gauges(), contract.framing(options.size)
    pictures = partial(uploads.named, framing=framing, face=contract.takes_sound)
    engines = EngineOptions(
        artifact=options.artifact,
        num_threads=options.num_threads,
        undo_chunks=options.undo_chunks,
        size=options.size,
        overlap=options.overlap,
        decode_precision=options.decode_precision,
        products=options.products,
        trace=options.trace,
    )
    return SessionMaker(
        engines=EnginePool(
            engines,
            options.engines or [options.device],
            capacity=options.capacity,
            policy=POLICIES[options.sessions.policy],
            max_load=options.sessions.max_load,
            serve=serve,
            on_wait=gauges.wait_ms.observe,
        ),
        texts=TextProcess(options.text_encoder, options.artifact) if contract.dit.width("text") else None,
        pictures=None if contract.dit.keyframes is None else pictures,
        profile=profile,
        timing=timing,
        seed=options.seed,
        ice_servers=IceServers.of(options.ice_servers),
        turn_taking=turn_taking,
        timeouts=timeouts,
        gauges=gauges,
        manners={key: manner_of(character, contract) for key, character in characters.items()},
        traces=Traces.to(options.trace),
    )


async def started(sessions: SessionMaker, contract: Contract, lead_ms: float) -> SessionMaker:
    """The sessions of engine processes that run.

    Raises:
        FaceLostError: one does not start.
    """
    found = await sessions.engines.start()
    timing = timing_of(contract, lead_ms, overlap=found.overlap)
    log.info("overlap %s: %s", "on" if found.overlap else "off", found.reason)
    log.info(
        "what is said is heard and seen within %.0f ms: lead %.0f ms, and %d overlapped chunks of %.0f ms",
        *(timing.delay_ms, lead_ms, timing.in_flight_chunks, contract.chunk_ms),
    )
    sessions.gauges.delay_ms.set(timing.delay_ms)
    sessions.gauges.watch(sessions.engines.numbers)
    return replace(sessions, timing=timing)


@contextlib.asynccontextmanager
async def running_app(
    options: ServerOptions,
    *,
    timeouts: Timeouts,
    turn_taking: TurnTaking,
    endpoints: dict[str, Endpoint],
    mount: Mount,
    serve: ServeEngines = serve_engines,
) -> AsyncIterator[Api]:
    """Everything behind the port; `mount` adds routes to it. serve: what engine processes run.

    Raises:
        FileNotFoundError, ValueError: artifact, characters or a choice cannot be used.
        FaceLostError: the engine does not start.
        MissingPackageError: what a choice needs is not installed.
    """
    contract = Contract.from_json(read_manifest(Path(options.artifact))["contract"])
    framing = contract.framing(options.size)
    set_video_bitrate(framing.frame)
    if contract.takes_sound:
        characters = read_characters(Path(options.characters), framing)
    else:
        characters = read_places(Path(options.artifact) / PLACES, framing)
    parts, uploads = {"timeouts": timeouts, "turn_taking": turn_taking, "endpoints": endpoints}, Uploads()
    sessions = session_maker(options, contract, characters, **parts, uploads=uploads, serve=serve)
    servers = [McpServer(name, there) for name, there in options.mcp_servers.items()]
    try:
        sessions = replace(sessions, tools=[tool for server in servers for tool in await server.tools()])
        sessions = replace(sessions, vision=await vision_of(options, sessions.profile))
        sessions = await started(sessions, contract, options.lead_ms)
        engines = sessions.engines
        api = Api(
            Admission(capacity=lambda: engines.capacity, retry_after_s=options.retry_after_s, gauges=sessions.gauges),
            characters,
            make_conversation=sessions.conversation,
            make_renderer=sessions.renderer,
            framing=framing,
            controls=SessionControls.of(contract, rewind_chunks=options.undo_chunks),
            hosts={*LOCAL_HOSTS, options.host, *options.hosts},
            origins=set(options.origins),
            trusted_proxies=options.trusted_proxies,
            requests_per_minute=options.requests_per_minute,
            gauges=sessions.gauges,
            uploads=uploads,
            traces=sessions.traces,
        )
        if sessions.profile is None:  # others' programs ask for characters
            yield api
            return
        async with mount(api, sessions.profile.speech):
            yield api
    finally:
        for server in servers:
            await server.close()
        await sessions.engines.close()
        sessions.close()
        if sessions.traces is not None:
            await asyncio.to_thread(sessions.traces.close)


async def serve_until_signal(
    options: ServerOptions,
    *,
    timeouts: Timeouts,
    turn_taking: TurnTaking,
    endpoints: dict[str, Endpoint],
    mount: Mount,
    serve: ServeEngines = serve_engines,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain; a second signal stops at once. serve: as for `running_app`.

    Raises:
        ValueError: the port is taken, or the certificate cannot be used; known before anything is loaded.
        FileNotFoundError, ValueError, FaceLostError, MissingPackageError: as `running_app`.
    """
    sockets, tls = bound_sockets(options.host, options.port), encryption(options.certificate)
    with contextlib.ExitStack() as held:
        for each in sockets:
            held.callback(each.close)
        parts = {"timeouts": timeouts, "turn_taking": turn_taking, "endpoints": endpoints}
        app = running_app(options, **parts, mount=mount, serve=serve)
        async with app as api:
            stop = _stop_signal()
            exempt_from_collection()
            async with listening(api.app, sockets, tls):
                try:
                    names = ", ".join(character.name for character in api.characters.values())
                    begin = "talk to" if api.controls.sound else "walk from"
                    address = options.scheme, options.host, sockets[0].getsockname()[1]
                    log.info("%s %s: %s://%s:%d", begin, names, *address)
                    await stop.wait()
                    log.info("stopping: nobody new is let in; a second signal stops at once")
                finally:
                    await api.admission.drain(within_s=options.drain_s)


def exempt_from_collection() -> None:
    """Take what is loaded for good out of garbage collections.

    A full one looked at 390,000 objects of libraries for 244 ms, in which no sound was sent and no request answered;
    now at those of sessions, for 33 ms (2-core CPU, 2026-11-29).
    """
    gc.collect()
    gc.freeze()


def _stop_signal() -> asyncio.Event:
    """Set by the first SIGTERM or Ctrl-C; the next one ends the process as if nobody listened."""
    stop, loop, numbers = asyncio.Event(), asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)

    def on_signal() -> None:
        stop.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    return stop
