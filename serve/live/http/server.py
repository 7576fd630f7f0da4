"""The parts put together: artifact, engine process, services, characters, HTTP; and their end in the right order."""

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

from gwm.contract import Contract
from serve.artifact import PLACES, read_manifest
from serve.live.avatar.changes import SessionControls
from serve.live.avatar.engines import serve_engines
from serve.live.characters import read_characters, read_places
from serve.live.http.admission import Admission
from serve.live.http.api import Api
from serve.live.http.port import bound_sockets, encryption, listening
from serve.live.http.session import Timeouts
from serve.live.http.session_maker import ServeEngines, SessionMaker, session_maker, timing_of, vision_of
from serve.live.http.tracks import set_video_bitrate
from serve.live.http.uploads import Uploads
from serve.live.options import EngineDevices, ServerOptions
from serve.live.speech.agent import TurnTaking
from serve.live.speech.endpoints import Endpoint
from serve.live.speech.mcp_server import McpServer
from serve.live.speech.voice_servers import Speech
from serve.parallel.parallelize import check_division

log = logging.getLogger(__name__)

LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}
Mount = Callable[[Api, Speech], contextlib.AbstractAsyncContextManager[object]]


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
    for there in map(EngineDevices.of, options.engines or ()):
        check_division(contract, len(there.denoise), there.parallel)
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
