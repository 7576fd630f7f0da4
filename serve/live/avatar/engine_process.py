"""The server's end of the process of all engines: nothing they compute can delay sound, and it may be killed."""

import asyncio
import logging
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from serve.live.avatar.call_queue import CallQueue
from serve.live.avatar.engines import EngineOptions, help_denoise, serve_engines
from serve.live.avatar.overlap import Measured
from serve.live.avatar.performer import FaceLostError
from serve.scheduler import Policy, least_slack

log = logging.getLogger(__name__)

# Loading and checking 28 GB of weights, compiling kernels and capturing graphs, for all slots; and measuring a chunk.
START_TIMEOUT_S = 300.0
STEP_TIMEOUT_S = 10.0  # an engine that says nothing for so long counts as lost


@dataclass(frozen=True, slots=True)
class _Child:
    """The process that answers, first, and those that denoise with it."""

    processes: Sequence[BaseProcess]
    connection: Connection
    meeting: Path | None  # of all of them

    @property
    def alive(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def answered(self, timeout_s: float) -> bool:
        """Wait for an answer; whether there is one.

        Raises:
            EOFError: one of the others has ended.
        """
        ready = wait([self.connection, *(other.sentinel for other in self.processes[1:])], timeout_s)
        if ready and self.connection not in ready:
            raise EOFError("a process that denoises with it has ended")
        return bool(ready)

    def end(self) -> None:
        self.connection.close()
        for process in self.processes:
            process.kill()
            process.join()
        if self.meeting is not None:
            self.meeting.unlink(missing_ok=True)
            self.meeting.parent.rmdir()


class EngineProcess:
    """The parent's end: one call at a time, the most urgent first; a lost process is replaced by `start`. Where several
    denoise together, they are lost together."""

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
        return child.processes[0].pid if child else None

    @property
    def alive(self) -> bool:
        child = self._child
        return child is not None and child.alive

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
        meeting = Path(mkdtemp(prefix="gwm-engines-")) / "meeting" if self.options.others else None
        options = replace(self.options, meeting=None if meeting is None else str(meeting))
        work = [(self.serve, (theirs, options))]
        work += [(help_denoise, (options, rank)) for rank in range(1, 1 + len(options.others))]
        processes = [context.Process(target=each, args=given, name="engines", daemon=True) for each, given in work]
        self._child = _Child(processes, ours, meeting)
        for process in processes:
            process.start()
        theirs.close()
        computes = self._receive(START_TIMEOUT_S)  # this process has the log
        log.info("engines run in process %s: %s", ", ".join(str(each.pid) for each in processes), computes)

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
            if not self._child.answered(timeout_s):
                raise TimeoutError(f"no answer within {timeout_s:.0f} s")
            result, error = self._child.connection.recv()
        except (EOFError, OSError) as cause:  # TimeoutError is an OSError
            self._end()
            raise FaceLostError(f"the engine process is gone ({cause or 'it ended'}).") from cause
        if error:
            if not self._child.alive:  # the reason, where several denoise together
                self._end()
            raise FaceLostError(f"the engine process refused: {error}")
        return result

    def _end(self) -> None:
        if self._child:
            self._child.end()
            self._child = None
