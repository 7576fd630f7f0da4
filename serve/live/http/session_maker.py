"""What makes the sessions of a server, by its options."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection

from gwm.contract import Contract
from serve.live.avatar.chunk_times import StreamTiming
from serve.live.avatar.engine_pool import EnginePool
from serve.live.avatar.engines import EngineOptions, serve_engines
from serve.live.avatar.process_face import ProcessFace, ReadPicture
from serve.live.avatar.text_process import TextProcess
from serve.live.characters import Character, manner_of
from serve.live.gauges import Gauges
from serve.live.http.conversation import Conversation
from serve.live.http.ice import IceServers
from serve.live.http.page_session import PageSession
from serve.live.http.renderer_session import Renderer
from serve.live.http.session import SessionParts, Timeouts
from serve.live.http.uploads import Uploads
from serve.live.http.walk import Walk
from serve.live.options import ServerOptions
from serve.live.speech.agent import TurnTaking
from serve.live.speech.endpoints import Endpoint
from serve.live.speech.picture_probe import takes_pictures
from serve.live.speech.profile import Profile
from serve.live.speech.tools import Tool
from serve.live.traces import SessionTrace, Traces
from serve.live.vision.pictures import SOURCES
from serve.live.vision.reader import Reader, readable
from serve.live.vision.sight import EVERY_SECOND, METHODS, ON_REQUEST, Vision
from serve.scheduler import POLICIES

log = logging.getLogger(__name__)

ServeEngines = Callable[[Connection, EngineOptions], None]  # in a process of its own


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


def engine_options(options: ServerOptions) -> EngineOptions:
    """Of every engine process, but for its devices."""
    return EngineOptions(
        artifact=options.artifact,
        num_threads=options.num_threads,
        undo_chunks=options.undo_chunks,
        size=options.size,
        overlap=options.overlap,
        dtype=options.dtype,
        decode_precision=options.decode_precision,
        products=options.products,
        trace=options.trace,
    )


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
    return SessionMaker(
        engines=EnginePool(
            engine_options(options),
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
