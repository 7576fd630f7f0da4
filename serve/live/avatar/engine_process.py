"""All sessions' engines in one process of their own: nothing they compute can delay sound, and it may be killed."""

import asyncio
import contextlib
import logging
import multiprocessing
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from serve.applied import Applied
from serve.live.avatar.changes import Act, Change, ChangeRefusedError, Rewind, SetPrompt
from serve.live.avatar.performer import FaceLostError
from serve.live.avatar.sound import Sound
from serve.live.avatar.text_process import TextProcess

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0  # loading torch and the weights on a busy machine
STEP_TIMEOUT_S = 10.0  # an engine that says nothing for so long counts as lost
WARMUP_STEPS, TIMED_STEPS = 4, 8
Portrait = UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What all engines of the process have in common; fields as in `ServerOptions`."""

    artifact: str
    device: str | None = None
    num_threads: int | None = 1
    undo_chunks: int = 0
    size: int | None = None


class Engines:
    """What runs in the process: one engine per session, called by name. Those of sessions that have ended are kept for
    later ones, with their storage and graphs."""

    def __init__(self, options: EngineOptions) -> None:
        import torch  # here: the parent process never needs it

        from serve.artifact import load_artifact
        from serve.engine import Engine
        from serve.graphs import capture_on
        from serve.threads import choose_threads

        if options.num_threads is not None:
            torch.set_num_threads(options.num_threads)
        self.options, self.artifact = options, load_artifact(Path(options.artifact), device=options.device)
        if options.num_threads is None:
            choose_threads(Engine(self.artifact, seed=0, size=options.size))
        self.capture = capture_on(self.artifact.dit.head.weight.device)
        self.engines = dict[str, Any]()
        self.free: list[Any] = []

    def start(self, session: str, portrait: Portrait, seed: int) -> None:
        """Begin a stream, in a new engine where none is free.

        Raises:
            ValueError: the portrait does not fit.
            RuntimeError: one more engine does not fit into memory.
        """
        from serve.engine import Engine

        self.stop(session)
        if not self.free:
            chosen = self.options
            self.free.append(
                Engine(
                    self.artifact,
                    seed=seed,
                    capture=self.capture,
                    undo_chunks=chosen.undo_chunks,
                    size=chosen.size,
                )
            )
        engine = self.free[-1]
        engine.seed = seed
        engine.start(portrait)
        self.engines[session] = self.free.pop()

    def step(self, session: str, agent: Sound, user: Sound, interrupted: bool) -> UInt8[np.ndarray, "f h w 3"] | None:
        engine = self.engines[session]
        if interrupted:
            engine.silence()
        if engine.contract.hears:
            engine.push(agent, user)
        return engine.step() if engine.ready else None

    def change(self, session: str, change: Change) -> Applied | str:
        """From when on it holds, or why it cannot."""
        import torch

        from gwm.no_text import padded_text

        engine = self.engines[session]
        try:
            match change:
                case SetPrompt(tokens=tokens) if tokens is not None:
                    return engine.set_prompt(padded_text(torch.from_numpy(tokens), engine.text_tokens)[None])
                case Act(action=action):
                    return engine.act(action)
                case Rewind(chunks=chunks):
                    return engine.rewind(chunks, keep_sound=False)  # what is said meanwhile goes on
                case _:
                    return "prompt must have tokens: the model has no text condition."
        except ValueError as error:
            return str(error)

    def stop(self, session: str) -> None:
        if session in self.engines:
            self.free.append(self.engines.pop(session))

    def count(self) -> int:
        return len(self.engines)

    def measure(self) -> float:
        """Median milliseconds of a chunk on this machine, now."""
        contract = self.artifact.contract
        self.start("measure", np.zeros((*contract.picture_size(self.options.size), 3), np.uint8), 0)
        silence = np.zeros(contract.chunk_pixel_frames * contract.audio.frame_samples, np.float32)
        times = []
        while len(times) < WARMUP_STEPS + TIMED_STEPS:
            begin = time.perf_counter()
            if self.step("measure", silence, silence, False) is not None:
                times.append(1000 * (time.perf_counter() - begin))
        self.stop("measure")
        return float(np.median(times[WARMUP_STEPS:]))


def serve_engines(connection: Connection, options: EngineOptions) -> None:
    """Answer calls with (result, error) until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process, also after Ctrl-C
    engines = Engines(options)
    connection.send((None, None))
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            name, arguments = connection.recv()
            try:
                answer = methodcaller(name, *arguments)(engines), None
            except (KeyError, ValueError, RuntimeError) as error:
                answer = None, f"{type(error).__name__}: {error}"
            connection.send(answer)


@dataclass(frozen=True, slots=True)
class _Child:
    process: BaseProcess
    connection: Connection


class EngineProcess:
    """The parent's end: one call at a time, in the order in which they came; a lost process is replaced by `start`."""

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        self.restarts = -1
        # One thread, so that a call whose caller was cancelled still gets its answer before the next call is sent.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine-calls")
        self._child: _Child | None = None
        self._starting = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        return self._child.process.pid if self._child else None

    async def start(self) -> None:
        """Make sure that the process is there.

        Raises:
            FaceLostError: it did not start; the message says why, its own log says more.
        """
        async with self._starting:
            if not (self._child and self._child.process.is_alive()):
                await asyncio.get_running_loop().run_in_executor(self._thread, self._start)
                self.restarts += 1

    async def call(self, name: str, *arguments: Any) -> Any:
        """The result of a method of `Engines`.

        Raises:
            FaceLostError: the process is gone, or refused the call.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._call, name, arguments)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._end)
        self._thread.shutdown()

    def _start(self) -> None:
        self._end()
        context = multiprocessing.get_context("spawn")  # fork would copy the server's sockets and locks
        ours, theirs = context.Pipe()
        process = context.Process(target=serve_engines, args=(theirs, self.options), name="engines", daemon=True)
        process.start()
        theirs.close()
        self._child = _Child(process, ours)
        self._receive(START_TIMEOUT_S)
        log.info("engines run in process %s", process.pid)

    def _call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if not self._child:
            raise FaceLostError("the engine process does not run.")
        try:
            self._child.connection.send((name, arguments))
        except OSError as error:
            self._end()
            raise FaceLostError(f"the engine process is gone ({error}).") from error
        return self._receive(STEP_TIMEOUT_S)

    def _receive(self, timeout_s: float) -> Any:
        assert self._child is not None
        try:
            if not self._child.connection.poll(timeout_s):
                raise TimeoutError(f"no answer within {timeout_s:.0f} s")
            result, error = self._child.connection.recv()
        except (EOFError, OSError) as cause:  # TimeoutError is an OSError
            self._end()
            raise FaceLostError(f"the engine process is gone ({cause or 'it ended'}).") from cause
        if error:
            raise FaceLostError(f"the engine process refused: {error}")
        return result

    def _end(self) -> None:
        if self._child:
            self._child.connection.close()
            self._child.process.kill()
            self._child.process.join()
            self._child = None


class ProcessFace:
    """One session's `Face` in the engine process. A new engine gets the prompt and the numbers of the lost one."""

    def __init__(
        self,
        process: EngineProcess,
        session: str,
        portrait: Portrait,
        *,
        seed: int,
        texts: TextProcess | None = None,
        manner: Mapping[str, float] | None = None,
    ) -> None:
        """texts: encodes prompts; None: the model has no text condition. manner: numbers while nobody sets others."""
        self.process, self.session, self.portrait, self.seed, self.texts = process, session, portrait, seed, texts
        self.manner = Act(dict(manner or {}))
        self._kept: dict[type, Change] = {Act: self.manner} if manner else {}

    async def start(self) -> None:
        await self.process.start()
        await self.process.call("start", self.session, self.portrait, self.seed)
        for change in self._kept.values():
            await self.process.call("change", self.session, change)

    async def change(self, change: Change) -> Applied:
        """As `Face.change`."""
        if isinstance(change, SetPrompt):
            if self.texts is None:
                raise ChangeRefusedError("prompt must be left out: the model has no text condition.")
            change = SetPrompt(change.text, await self.texts.tokens(change.text))
        applied = await self.process.call("change", self.session, change)
        if isinstance(applied, str):
            raise ChangeRefusedError(applied)
        if isinstance(change, Act):
            await self._keep_numbers(change)
        elif not isinstance(change, Rewind):
            self._kept[type(change)] = change
        return applied

    async def _keep_numbers(self, change: Act) -> None:
        """All that hold now: whoever releases all of them has the character's own manner back."""
        if change.action is None:
            self._kept[Act] = self.manner
            await self.process.call("change", self.session, self.manner)
            return
        before = self._kept.get(Act, self.manner)
        assert isinstance(before, Act)
        self._kept[Act] = Act({**(before.action or {}), **change.action})

    async def step(self, agent: Sound, user: Sound, *, interrupted: bool) -> UInt8[np.ndarray, "f h w 3"] | None:
        return await self.process.call("step", self.session, agent, user, interrupted)

    async def stop(self) -> None:
        with contextlib.suppress(FaceLostError):
            await self.process.call("stop", self.session)
