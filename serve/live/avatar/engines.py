"""The engines of all sessions, as they live in a process of their own."""

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from operator import methodcaller
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from gwm.no_text import padded_text
from serve.acts import Applied
from serve.artifact import Artifact, chosen_dtype, load_artifact
from serve.engine import Engine
from serve.graphs import Capture, capture_cuda, capture_on
from serve.live.avatar.changes import Act, Change, Redo, Rewind, SetKeyframe, SetPrompt
from serve.live.avatar.overlap import Measured, OverlappedEngine, measured
from serve.live.avatar.stage_spans import StageSpans
from serve.live.avatar.voice_buffers import Ahead, Sound
from serve.live.traces import Traces
from serve.memory import slots_that_fit
from serve.parallel.follow import follow_streams
from serve.parallel.parallelize import meet
from serve.parallel.ranks import Order, Ranks
from serve.pipeline import Frames, Lanes
from serve.tuning import choose_decode_precision, choose_products, choose_threads

TEXT_TOKENS = 512  # of every prompt, as in Wan
WARMUP_STEPS, TIMED_STEPS = 4, 8
MAX_KEYFRAMES = 64  # of a session that are still to be seen
Portrait = UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What all engines of the process have in common; fields as in `ServerOptions`."""

    artifact: str
    device: str | None = None
    others: tuple[str, ...] = ()  # devices of further processes that denoise every stream with this one,
    meeting: str | None = None  # the file where they meet,
    parallel: str = "ulysses"  # and how they divide a stream
    decode_device: str | None = None  # None: `device`
    num_threads: int | None = 1
    undo_chunks: int = 0
    size: int | None = None
    overlap: str = "off"
    slots: int = 1  # engines that are made before sessions come
    dtype: str = "float32"
    decode_precision: str = "float32"
    products: str = "pytorch"
    trace: str | None = None


class Engines:
    """One engine per session, called by name. Those of sessions that have ended are kept for later ones, with their
    storage and graphs. Where chunks overlap, all of them share two workers, one that denoises and one that decodes."""

    def __init__(self, options: EngineOptions, make: Callable[..., Engine] = Engine) -> None:
        """make: an engine, with the arguments of `Engine`."""
        self.make = make
        if options.num_threads is not None:
            torch.set_num_threads(options.num_threads)
        self.options, self.ranks = options, joined(options, 0)
        self.artifact = loaded(options, options.device)
        if self.ranks is not None:
            self.ranks.wait_for_all()
        device = self.artifact.dit.head.weight.device
        self.computes = str(device)  # in what, for the server's log
        if device.type == "cpu":  # a GPU has nothing to choose, and keeps memory that an engine has had
            self._choose(Engine(self.artifact, seed=0, size=options.size))
        # Graphs that may run at the same time share no memory.
        self.capture = capture_cuda if device.type == "cuda" and options.overlap != "off" else capture_on(device)
        self.overlap, self.lanes = options.overlap == "on", Lanes.on(device, self.artifact.vae.device)
        self.engines, self.num_made = dict[str, Engine](), 0
        self.free = list[Engine]()
        self.overlapped = dict[Engine, OverlappedEngine]()  # those that have been used so
        self.traces = Traces.to(options.trace)
        self.spans = dict[Engine, StageSpans]()
        self.reserve(options.slots)

    def start(self, session: str, portrait: Portrait, seed: int) -> None:
        """Begin a stream, in a new engine where none is free.

        Raises:
            ValueError: the portrait does not fit.
            RuntimeError: one more engine does not fit into memory.
        """
        self.stop(session)
        if not self.free:
            self.free.append(self._made())
        engine = self.free[-1]
        engine.seed = seed
        if engine in self.spans:
            self.spans[engine].chunks.clear()
        if self.overlap:
            self.overlapped.setdefault(engine, OverlappedEngine(engine, self.lanes))
        self._driver(engine).start(portrait)
        engine.push_silence(engine.lookahead_samples)  # by which the other's voice is heard later
        self.engines[session] = self.free.pop()

    def step(self, session: str, agent: Ahead, user: Sound) -> Frames | None:
        """As `Face.step`."""
        engine = self.engines[session]
        if engine.contract.takes_sound:
            engine.push(np.zeros_like(user), user)
            engine.say(agent)
        return self._driver(engine).step()

    def retake(self, session: str, agent: Ahead) -> Frames | None:
        """As `serve.live.avatar.performer.Retaking.retake`."""
        engine = self.engines[session]
        if self.overlap or not engine.undo.num_kept:
            return None
        engine.rewind(1)
        engine.say(agent)
        return engine.step()

    def traced(self, carrier: dict[str, str], name: str, session: str, *given: Any) -> Frames | None:
        """As `step` or `retake`, of a chunk that is a span of the server's."""
        self.spans[self.engines[session]].expect(carrier, alone=not self.overlap)
        return methodcaller(name, session, *given)(self)

    def change(self, session: str, change: Change) -> Applied | tuple[Applied, Frames] | str:
        """From when on it holds, with the frames of a chunk that was made again; or why it cannot."""
        engine = self.engines[session]
        try:
            match change:
                case SetPrompt(tokens=tokens) if tokens is not None:
                    text = padded_text(torch.from_numpy(tokens), engine.text_tokens)[None]
                    return self._driver(engine).set_prompt(text)
                case Act(action=action):
                    return engine.act(action)
                case SetKeyframe() if engine.timeline.keyframes.ahead(engine.timeline.num_chunks) >= MAX_KEYFRAMES:
                    return f"{MAX_KEYFRAMES} keyframes lie ahead already. Wait until some of them were seen."
                case SetKeyframe(picture=picture, in_s=in_s) if picture is not None:
                    at_s = engine.timeline.next_chunk().media_s + in_s
                    return self._driver(engine).keyframe(picture, at_s=at_s)
                case Redo() if self.overlap:
                    return "a chunk must not be made again while the next is begun: overlap is on."
                case Redo(action=action, frame=frame):
                    return engine.redo(action, frame=frame)
                case Rewind(chunks=chunks):  # what is said meanwhile goes on
                    return self._driver(engine).rewind(chunks, keep_sound=False)
                case _:
                    return "prompt must have tokens: the model has no text condition."
        except ValueError as error:
            return str(error)

    def stop(self, session: str) -> None:
        """End a stream; its engine is free when nothing of it is under way any more."""
        if session in self.engines:
            engine = self.engines.pop(session)
            if engine in self.overlapped:
                self.overlapped[engine].drain()
            self.free.append(engine)

    def reserve(self, slots: int) -> int:
        """Make engines until there are so many, or memory is full; how many there are. One that is made while others
        speak would let them wait.

        Raises:
            RuntimeError: not even one fits into memory.
        """
        options, made = self.options, len(self.engines) + len(self.free)
        fit = slots_that_fit(self.artifact, undo_chunks=options.undo_chunks, text_tokens=TEXT_TOKENS, size=options.size)
        self.free += [self._made() for _ in range(min(slots - made, fit if made else max(1, fit)))]
        return len(self.engines) + len(self.free)

    def count(self) -> int:
        return len(self.engines)

    def measure(self) -> Measured:
        """How long a chunk takes on this machine, now; and so whether chunks overlap from here on."""
        found = measured(self.options.overlap, chunk_ms=self.artifact.contract.chunk_ms, time=self._time)
        self.overlap = found.overlap
        return found

    def _choose(self, engine: Engine) -> None:
        """Threads and precision, by what this engine needs."""
        if self.options.num_threads is None:
            choose_threads(engine)
        by_measure = self.options.products == "auto" and self.ranks is None  # parts are cut from weights in order
        products = choose_products(engine) if by_measure else "pytorch"
        precision = choose_decode_precision(engine, self.options.decode_precision)
        threads = f"{torch.get_num_threads()} threads, products by {products}"
        self.computes = f"{threads}, decoder in {precision}".replace("torch.", "")

    def _made(self) -> Engine:
        if self.ranks is None:
            engine = made_engine(self.artifact, self.options, capture=self.capture, make=self.make)
        else:
            ranks = self.ranks.of_stream(self.num_made)
            self.num_made += 1
            ranks.send_order(Order.MAKE)
            engine = made_engine(self.artifact, self.options, ranks=ranks, make=self.make)
        if self.traces is not None:
            self.spans[engine] = StageSpans(engine, self.traces)
        return engine

    def _driver(self, engine: Engine) -> Engine | OverlappedEngine:
        return self.overlapped[engine] if self.overlap else engine

    def _time(self, overlap: bool) -> float:
        """Median milliseconds from chunk to chunk."""
        self.overlap, contract = overlap, self.artifact.contract
        self.start("measure", np.zeros((*contract.picture_size(self.options.size), 3), np.uint8), 0)
        silence = np.zeros(contract.chunk_pixel_frames * contract.audio.frame_samples, np.float32)
        times = []
        while len(times) < WARMUP_STEPS + TIMED_STEPS:
            begin = time.perf_counter()
            if self.step("measure", silence, silence) is not None:
                times.append(1000 * (time.perf_counter() - begin))
        self.stop("measure")
        return float(np.median(times[WARMUP_STEPS:]))


def loaded(options: EngineOptions, device: torch.device | str | None) -> Artifact:
    """The models, denoiser and decoder where the options say."""
    dtype = chosen_dtype(options.dtype, device)
    return load_artifact(options.artifact, device=device, decode_device=options.decode_device, dtype=dtype)


def joined(options: EngineOptions, rank: int) -> Ranks | None:
    """The processes that denoise together, of which this is one; None: it is alone."""
    if not options.others:
        return None
    assert options.meeting is not None, "several processes meet somewhere"
    devices = [options.device or "cpu", *options.others]
    return meet(options.meeting, devices[rank], rank=rank, size=len(devices), way=options.parallel)


def made_engine(
    artifact: Artifact,
    options: EngineOptions,
    *,
    capture: Capture | None = None,
    ranks: Ranks | None = None,
    make: Callable[..., Engine] = Engine,
) -> Engine:
    """The engine of one more stream; make: as for `Engines`."""
    return make(
        artifact,
        seed=0,
        capture=capture,
        undo_chunks=options.undo_chunks,
        text_tokens=TEXT_TOKENS,
        size=options.size,
        ranks=ranks,
    )


def help_denoise(options: EngineOptions, rank: int) -> None:
    """One of the other processes that denoise with the first, until that one ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in `serve_engines`
    torch.set_num_threads(options.num_threads or 1)
    ranks = joined(options, rank)
    assert ranks is not None, "one of several"
    artifact = loaded(options, ranks.device)
    ranks.wait_for_all()
    follow_streams(ranks, lambda each: made_engine(artifact, options, ranks=each))


def serve_engines(connection: Connection, options: EngineOptions, make: Callable[..., Engine] = Engine) -> None:
    """Say how chunks are computed, then answer calls with (result, error) until the other end closes.

    make: as for `Engines`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process, also after Ctrl-C
    engines = Engines(options, make)
    connection.send((engines.computes, None))
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            name, arguments = connection.recv()
            try:
                answer = methodcaller(name, *arguments)(engines), None
            except (KeyError, ValueError, RuntimeError) as error:
                answer = None, f"{type(error).__name__}: {error}"
            connection.send(answer)
