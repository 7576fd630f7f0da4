"""The server's end of the process of all engines: nothing they compute can delay sound, and it may be killed."""

import asyncio
import contextlib
import logging
import multiprocessing
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
from jaxtyping import UInt8

from serve.acts import Applied
from serve.live.avatar.call_queue import CallQueue
from serve.live.avatar.changes import (
    Act,
    Change,
    ChangeRefusedError,
    Redo,
    Reset,
    SetKeyframe,
    SetPrompt,
)
from serve.live.avatar.engines import EngineOptions, Portrait, serve_engines
from serve.live.avatar.overlap import Measured
from serve.live.avatar.performer import FaceLostError
from serve.live.avatar.text_process import TextProcess
from serve.live.avatar.voice_buffers import Ahead, Sound
from serve.scheduler import Policy, least_slack

log = logging.getLogger(__name__)

# Loading and checking 28 GB of weights, compiling kernels and capturing graphs, for all slots; and measuring a chunk.
START_TIMEOUT_S = 300.0
STEP_TIMEOUT_S = 10.0  # an engine that says nothing for so long counts as lost


@dataclass(frozen=True, slots=True)
class _Child:
    process: BaseProcess
    connection: Connection


class EngineProcess:
    """The parent's end: one call at a time, the most urgent first; a lost process is replaced by `start`."""

    def __init__(
        self,
        options: EngineOptions,
        *,
        policy: Policy = least_slack,
        max_load: float = 1.0,
        serve: Callable[[Connection, EngineOptions], None] = serve_engines,
        on_wait: Callable[[float], None] = lambda ms: None,
    ) -> None:
        """policy, max_load, on_wait: as for `CallQueue`. serve: what the process runs."""
        self.options, self.serve = options, serve
        self.restarts = -1
        self.queue = CallQueue(self._send, policy=policy, max_load=max_load, on_wait=on_wait)
        # One thread, so that a call whose caller was cancelled still gets its answer before the next call is sent.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine-calls")
        self._child: _Child | None = None
        self._starting = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        child = self._child  # the thread may end it between two looks
        return child.process.pid if child else None

    @property
    def alive(self) -> bool:
        child = self._child
        return child is not None and child.process.is_alive()

    @property
    def sessions(self) -> int:
        """That are placed here."""
        return len(self.queue.scheduler.streams)

    @property
    def room(self) -> int:
        """How many more fit: into its time, by what chunks take, and into its memory."""
        return min(self.queue.room, max(0, self.options.slots - self.sessions))

    async def start(self) -> None:
        """Make sure that the process is there.

        Raises:
            FaceLostError: it did not start; the message says why, its own log says more.
        """
        async with self._starting:
            if not self.alive:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._start)
                self.restarts += 1

    async def call(self, name: str, session: str, *arguments: Any, within_s: float | None = None) -> Any:
        """The result of a method of `Engines` for a session, when it is its turn; within_s: as for `CallQueue.call`.

        Raises:
            FaceLostError: the process is gone, or refused the call.
        """
        return await self.queue.call(session, name, session, *arguments, within_s=within_s)

    async def count(self) -> int:
        """Engines that are in use.

        Raises:
            FaceLostError: as `call`.
        """
        return await self._submit("count", (), STEP_TIMEOUT_S)

    async def reserve(self, slots: int) -> int:
        """Make engines for so many sessions, here and whenever the process starts; how many fit into memory.

        Raises:
            FaceLostError: as `call`; also when not even one fits.
        """
        made: int = await self._submit("reserve", (slots,), START_TIMEOUT_S)
        self.options = replace(self.options, slots=made)
        return made

    async def measure(self) -> Measured:
        """As `Engines.measure`. A process that is started anew overlaps chunks if this one does.

        Raises:
            FaceLostError: the process is gone.
        """
        found: Measured = await self._submit("measure", (), START_TIMEOUT_S)
        self.options = replace(self.options, overlap="on" if found.overlap else "off")
        step_s = found.step_ms / 1000
        self.queue.measured(period_s=found.chunk_ms / 1000, cost_s=step_s, least_s=step_s if found.overlap else 0.0)
        return found

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._end)
        self._thread.shutdown()

    async def _send(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if self._starting.locked():  # nobody's voice waits for a new process
            raise FaceLostError("the engine process is started anew.")
        return await self._submit(name, arguments, STEP_TIMEOUT_S)

    async def _submit(self, name: str, arguments: tuple[Any, ...], timeout_s: float) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._call, name, arguments, timeout_s)

    def _start(self) -> None:
        self._end()
        context = multiprocessing.get_context("spawn")  # fork would copy the server's sockets and locks
        ours, theirs = context.Pipe()
        process = context.Process(target=self.serve, args=(theirs, self.options), name="engines", daemon=True)
        process.start()
        theirs.close()
        self._child = _Child(process, ours)
        computes = self._receive(START_TIMEOUT_S)  # this process has the log
        log.info("engines run in process %s: %s", process.pid, computes)

    def _call(self, name: str, arguments: tuple[Any, ...], timeout_s: float) -> Any:
        if not self._child:
            raise FaceLostError("the engine process does not run.")
        try:
            self._child.connection.send((name, arguments))
        except OSError as error:
            self._end()
            raise FaceLostError(f"the engine process is gone ({error}).") from error
        return self._receive(timeout_s)

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


ReadPicture = Callable[[str], Awaitable[Portrait]]  # from what a message names; ChangeRefusedError: it is none


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
        pictures: ReadPicture | None = None,
        manner: Mapping[str, float] | None = None,
    ) -> None:
        """texts: encodes prompts; None: the model has no text condition. pictures: reads those of keyframes; None: the
        model takes none. manner: numbers while nobody sets others."""
        self.process, self.session, self.portrait, self.seed, self.texts = process, session, portrait, seed, texts
        self.pictures = pictures
        self.manner = Act(dict(manner or {}))
        self._kept: dict[type, Change] = {Act: self.manner} if manner else {}

    async def start(self) -> None:
        await self.process.start()
        await self.process.call("start", self.session, self.portrait, self.seed)
        for change in self._kept.values():
            await self.process.call("change", self.session, change)

    async def change(self, change: Change) -> Applied:
        """As `Face.change`."""
        if isinstance(change, Reset):
            await self.start()
            return Applied(0, 0.0)
        if isinstance(change, SetPrompt):
            if self.texts is None:
                raise ChangeRefusedError("prompt must be left out: the model has no text condition.")
            change = SetPrompt(change.text, await self.texts.tokens(change.text))
        if isinstance(change, SetKeyframe):
            if self.pictures is None:
                raise ChangeRefusedError(
                    "keyframes must be left out: the model has no condition with encoder=keyframes."
                )
            change = SetKeyframe("", change.in_s, await self.pictures(change.image))
        applied: Applied = await self._changed(change)
        if isinstance(change, Act):
            await self._keep_numbers(change)
        elif isinstance(change, SetPrompt):
            self._kept[type(change)] = change
        return applied

    async def redo(self, change: Redo) -> tuple[Applied, UInt8[np.ndarray, "f h w 3"]]:
        """As `serve.live.avatar.performer.Redoing.redo`."""
        applied, frames = await self._changed(change)
        await self._keep_numbers(Act(dict(change.action)))
        return applied, frames

    async def _changed(self, change: Change) -> Any:
        answer = await self.process.call("change", self.session, change)
        if isinstance(answer, str):
            raise ChangeRefusedError(answer)
        return answer

    async def _keep_numbers(self, change: Act) -> None:
        """All that hold now: whoever releases all of them has the character's own manner back."""
        if change.action is None:
            self._kept[Act] = self.manner
            await self.process.call("change", self.session, self.manner)
            return
        before = self._kept.get(Act, self.manner)
        assert isinstance(before, Act)
        self._kept[Act] = Act({**(before.action or {}), **change.action})

    async def step(self, agent: Ahead, user: Sound, *, within_s: float = 0.0) -> UInt8[np.ndarray, "f h w 3"] | None:
        return await self.process.call("step", self.session, agent, user, within_s=within_s)

    async def stop(self) -> None:
        try:
            with contextlib.suppress(FaceLostError):
                await self.process.call("stop", self.session)
        finally:
            self.process.queue.close(self.session)
