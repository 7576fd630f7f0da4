"""Spans of turns, chunks and requests: what belongs to what, in this process and in that of the engines."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    LLMTextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    UserStoppedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)

from serve.bench import turned_clock
from serve.live.avatar.call_queue import CallQueue
from serve.live.avatar.engines import EngineOptions, Engines
from serve.live.avatar.performer import Performer
from serve.live.http.server import running_app
from serve.live.http.traced import tracing
from serve.live.speech.agent import TurnTaking
from serve.live.speech.endpoints import Endpoint
from serve.live.speech.turns import TurnObserver
from serve.live.traces import ADDRESSES, SessionTrace, Traces
from tests.serve.live.avatar.live_sound import chunks
from tests.serve.live.avatar.test_call_queue import QueuedFace
from tests.serve.live.http.test_server import nothing, options
from tests.serve.live.level_face import TIMING, LevelFace
from tests.serve.live.server_kit import DEADLINE_S, TIMEOUTS
from tests.serve.live.speech.test_turns import Clock, push

RATE = TIMING.sample_rate


class Seen:
    """Traces whose spans stay here."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.traces = Traces(self.exporter)

    def spans(self, *names: str) -> list[ReadableSpan]:
        """All that have ended; of these names, if there are any."""
        self.traces.close()
        ended = sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)
        return [span for span in ended if not names or span.name in names]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_on")
    yield Seen()


def belongs(span: ReadableSpan, to: ReadableSpan) -> bool:
    return span.parent is not None and to.context is not None and span.parent.span_id == to.context.span_id


@pytest.mark.parametrize(
    ("modules", "foreign"),
    [("serve.live.avatar.engine_process", "opentelemetry"), ("serve.fleet.gateway", "opentelemetry.exporter")],
    ids=["engines", "server"],  # pipecat imports what else is there
)
def test_without_an_address_nothing_is_traced_and_nothing_imported_for_it(modules: str, foreign: str):
    words = f"import sys, {modules}; from serve.live.traces import Traces; print(Traces.to(None)); "
    words += f"print([name for name in sys.modules if name.startswith('{foreign}')])"
    environment = {name: value for name, value in os.environ.items() if name not in ADDRESSES}
    done = subprocess.run([sys.executable, "-c", words], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["None", "[]"]


def test_a_turn_has_its_parts_one_after_the_other_and_the_chunks_made_until_its_answer(seen: Seen):
    clock = Clock()
    trace = SessionTrace(seen.traces, "a")
    observer = TurnObserver(lambda event: None, clock=clock)
    observer.trace = trace

    async def run() -> None:
        await push(observer, VADUserStoppedSpeakingFrame(0.2, timestamp=90.0))  # and then goes on
        await push(observer, VADUserStoppedSpeakingFrame(0.2, timestamp=100.0))
        with trace.chunk():
            pass
        for frame in (
            TranscriptionFrame("Hi", "", ""),
            UserStoppedSpeakingFrame(),
            LLMTextFrame("Hello"),
            TTSAudioRawFrame(b"", RATE, 1),
        ):
            clock.now += 0.25
            await push(observer, frame)
        clock.now += 0.25
        observer.rendered()
        clock.now += 0.25
        await push(observer, BotStartedSpeakingFrame())
        with trace.chunk():
            pass

    asyncio.run(run())
    first, turn = seen.spans("turn")
    assert turn.attributes == {"session.id": "a", "turn.answered": True}
    assert first.attributes == {"session.id": "a", "turn.answered": False}
    parts = seen.spans(*(f"turn.{name}" for name in ("stt", "turn", "llm", "tts", "chunk", "pacing")))
    assert [span.name.removeprefix("turn.") for span in parts] == ["stt", "turn", "llm", "tts", "chunk", "pacing"]
    assert all(belongs(span, turn) for span in parts)
    begin_s = 99.8
    assert turn.start_time == round(1e9 * begin_s) and turn.end_time == parts[-1].end_time
    ends = [(span.end_time or 0) / 1e9 for span in parts]
    assert ends == pytest.approx([100.25, 100.5, 100.75, 101.0, 101.25, 101.5])
    assert [span.start_time for span in parts] == [turn.start_time, *(span.end_time for span in parts[:-1])]
    inside, after = seen.spans("chunk")
    assert belongs(inside, turn) and after.parent is None
    assert {(span.attributes or {})["session.id"] for span in (inside, after)} == {"a"}


def test_a_chunk_says_how_long_it_waits_and_its_carrier_goes_to_the_engine(seen: Seen):
    sent: list[tuple[str, tuple[Any, ...]]] = []

    async def run() -> None:
        async def send(name: str, arguments: tuple[Any, ...]) -> Any:
            sent.append((name, arguments))
            await asyncio.sleep(0.05)
            return np.zeros((4, 16, 16, 3), np.uint8)

        queue = CallQueue(send)
        performer = Performer(QueuedFace(queue, "a"), TIMING, trace=SessionTrace(seen.traces, "a"))
        plain = asyncio.create_task(queue.call("b", "step", "b", within_s=0.0))
        await asyncio.sleep(0)
        silence = np.zeros(TIMING.chunk_samples, np.float32)
        await asyncio.gather(plain, performer._made(performer.face.step(silence, silence)))

    turned_clock.run(run())
    (plain, traced), (chunk, wait) = sent, sorted(seen.spans(), key=lambda span: span.name)
    assert plain == ("step", ("b",)) and traced[0] == "traced"
    assert belongs(wait, chunk) and ((wait.end_time or 0) - (wait.start_time or 0)) / 1e6 == pytest.approx(50, abs=5)
    carrier, *arguments = traced[1]
    assert chunk.context is not None and arguments == ["step", "a"]
    assert carrier["traceparent"].split("-")[1:3] == [f"{chunk.context.trace_id:032x}", f"{chunk.context.span_id:016x}"]


def test_a_chunk_that_is_not_made_has_failed(seen: Seen):
    async def run() -> None:
        face = LevelFace()
        face.lost = True
        performer = Performer(face, TIMING, trace=SessionTrace(seen.traces, "a"))
        silence = np.zeros(TIMING.chunk_samples, np.float32)
        assert await performer._made(face.step(silence, silence)) is None

    asyncio.run(run())
    (chunk,) = seen.spans("chunk")
    assert chunk.status.description == "gone." and not chunk.status.is_ok


@pytest.mark.parametrize("contract", [1], ids=["chunk_of_1"], indirect=True)
@pytest.mark.parametrize("overlap", ["off", "on"])
def test_stages_belong_to_the_chunk_that_they_make(
    folder: Path, portrait, voices, overlap: str, seen: Seen, monkeypatch: pytest.MonkeyPatch
):
    """Also where a chunk is decoded during the call of the next; one that is not traced changes nothing."""
    monkeypatch.setattr(Traces, "to", lambda address: seen.traces)
    engines = Engines(EngineOptions(artifact=str(folder), device="cpu", overlap=overlap))
    monkeypatch.undo()
    plain = Engines(EngineOptions(artifact=str(folder), device="cpu", overlap=overlap))
    for each in (engines, plain):
        each.start("a", portrait, 3)
    asked = []
    for agent, user in chunks(voices):
        asked.append(seen.traces.begin("chunk"))
        made = engines.traced(seen.traces.carrier(asked[-1]), "step", "a", agent, user)
        expected = plain.step("a", agent, user)
        assert (made is None) == (expected is None) and (made is None or np.array_equal(made, expected))
    engines.stop("a")  # nothing is under way any more
    for span in asked:
        span.end()
    assert len(asked) > 3
    denoised, decoded = seen.spans("denoise"), seen.spans("decode")
    assert len(denoised) == len(decoded) == len(asked)
    for chunk, denoise, decode in zip(asked, denoised, decoded, strict=True):
        assert belongs(denoise, chunk) and belongs(decode, chunk)
        assert (decode.start_time or 0) >= (denoise.start_time or 0)


@pytest.mark.parametrize("contract", [1], ids=["chunk_of_1"], indirect=True)
@pytest.mark.parametrize("undo_chunks", [1, 0], ids=["made", "not_made"])
def test_a_chunk_that_is_made_again_is_a_span_with_stages_too(
    folder: Path, portrait, voices, undo_chunks: int, seen: Seen, monkeypatch: pytest.MonkeyPatch
):
    """By what the queue sends; where the engine keeps no chunk to make again, the next one's stages are the next
    one's."""
    monkeypatch.setattr(Traces, "to", lambda address: seen.traces)
    engines = Engines(EngineOptions(artifact=str(folder), device="cpu", undo_chunks=undo_chunks))
    engines.start("a", portrait, 3)

    async def run() -> list[bool]:
        async def send(name: str, arguments: tuple[Any, ...]) -> Any:
            return methodcaller(name, *arguments)(engines)

        queue, trace, made = CallQueue(send), SessionTrace(seen.traces, "a"), list[bool]()
        agent, user = chunks(voices)[0]
        for name, given in (("step", (agent, user)), ("retake", (agent,)), ("step", (agent, user))):
            with trace.chunk():
                made.append(await queue.call("a", name, "a", *given, within_s=1.0) is not None)
        return made

    made = asyncio.run(run())
    assert made == [True, undo_chunks == 1, True]
    asked = [chunk for chunk, there in zip(seen.spans("chunk"), made, strict=True) if there]
    for stage in ("denoise", "decode"):
        for chunk, span in zip(asked, seen.spans(stage), strict=True):
            assert belongs(span, chunk)


def test_a_request_is_a_span_of_its_route_that_belongs_to_its_client(seen: Seen):
    async def answer(request: web.Request) -> web.Response:
        if request.match_info["id"] == "bad":
            raise RuntimeError("a mistake")
        if request.match_info["id"] == "none":
            raise web.HTTPNotFound
        return web.Response()

    async def run() -> None:
        app = web.Application(middlewares=tracing(seen.traces))
        app.router.add_get("/v1/things/{id}", answer)
        app.router.add_get("/health", lambda request: answer(request))
        async with TestClient(TestServer(app)) as client:
            parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            for path in ("/v1/things/seven?key=secret", "/v1/things/none", "/v1/things/bad", "/v1/nothing", "/health"):
                async with client.get(path, headers={"traceparent": parent}):
                    pass

    asyncio.run(run())
    fine, none, bad = seen.spans()
    assert {span.name for span in (fine, none, bad)} == {"GET /v1/things/{id}"}
    assert fine.parent is not None and fine.parent.span_id == 0xB7AD6B7169203331
    shared = {"http.request.method": "GET", "http.route": "/v1/things/{id}"}
    assert fine.attributes == shared | {"gwm.id": "seven", "http.response.status_code": 200}
    assert [(span.attributes or {})["http.response.status_code"] for span in (none, bad)] == [404, 500]
    assert [span.status.is_ok for span in (fine, none, bad)] == [True, True, False]


class Collector:
    """What a collector receives by OTLP over HTTP: (pid of the process, its span)."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, Any]] = []

    async def take(self, request: web.Request) -> web.Response:
        for resource in ExportTraceServiceRequest.FromString(await request.read()).resource_spans:
            named = {each.key: each.value for each in resource.resource.attributes}
            assert named["service.name"].string_value == "gwm"
            pid = named["process.pid"].int_value
            self.spans += [(pid, span) for scope in resource.scope_spans for span in scope.spans]
        return web.Response()

    def named(self, name: str) -> list[tuple[int, Any]]:
        return [(pid, span) for pid, span in self.spans if span.name == name]


@asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Collector, str]]:
    collector, app = Collector(), web.Application()
    app.router.add_post("/v1/traces", collector.take)
    async with TestServer(app) as server:
        yield collector, str(server.make_url("")).rstrip("/")


@pytest.mark.slow
@pytest.mark.parametrize("contract", [1], ids=["chunk_of_1"], indirect=True)
@pytest.mark.parametrize("by", ["setting", "environment"])
def test_a_running_server_sends_spans_of_both_processes_to_a_collector(
    folder: Path, by: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")

    async def run() -> None:
        async with collecting() as (collector, url):
            if by == "environment":
                monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
            nowhere = Endpoint(url="http://127.0.0.1:9/v1", model="none", key_variable="NONE", first_byte_s=1.0)
            services = {"stt": "openai", "tts": "openai", "llm": "rules"}
            changed = services | {"artifact": str(folder), "device": "cpu", "trace": url if by == "setting" else None}
            parts = {"timeouts": TIMEOUTS, "turn_taking": TurnTaking(), "mount": nothing}
            endpoints = dict.fromkeys(("stt", "llm", "tts"), nowhere)
            app = running_app(options(**changed), **parts, endpoints=endpoints)
            async with app as api, TestClient(TestServer(api.app)) as client:
                async with client.post("/v1/sessions", json={}) as opened:
                    session = (await opened.json())["id"]
                async with asyncio.timeout(DEADLINE_S):
                    while not (collector.named("decode") and collector.named("chunk")):
                        await asyncio.sleep(0.1)
                engine_pid = collector.named("decode")[0][0]
                await api.admission.drain(within_s=0.0)
        chunk_ids = {span.span_id: span.trace_id for pid, span in collector.named("chunk") if pid == os.getpid()}
        assert engine_pid != os.getpid() and chunk_ids
        for name in ("denoise", "decode"):
            spans = [span for pid, span in collector.named(name) if pid == engine_pid]
            assert spans and all(chunk_ids[span.parent_span_id] == span.trace_id for span in spans)
        ((pid, request),) = collector.named("POST /v1/sessions")
        assert pid == os.getpid() and request.parent_span_id == b""
        (owner,) = {value.value.string_value for _, span in collector.named("chunk") for value in span.attributes}
        assert owner == session

    asyncio.run(run())
