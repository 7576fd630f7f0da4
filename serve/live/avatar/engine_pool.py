"""All engine processes of a server, one a device: a session is placed where there is most room, and stays there."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from serve.live.avatar.engine_process import EngineProcess
from serve.live.avatar.engines import EngineOptions, serve_engines
from serve.live.avatar.overlap import Measured
from serve.live.gauges import EngineNumbers
from serve.live.options import EngineDevices, Entry
from serve.scheduler import Policy, least_slack

log = logging.getLogger(__name__)


class EnginePool:
    """`start` it, `place` sessions while `capacity` says that there is room."""

    def __init__(
        self,
        options: EngineOptions,
        devices: Sequence[Entry | None],
        *,
        capacity: int | None = None,
        policy: Policy = least_slack,
        max_load: float = 0.6,
        serve: Callable[[Connection, EngineOptions], None] = serve_engines,
        on_wait: Callable[[float], None] = lambda ms: None,
    ) -> None:
        """devices: of each process, as for `EngineDevices.of`. capacity: sessions at once, whatever chunks take; None:
        as many as fit, by what chunks take. policy, max_load, serve, on_wait: as for `EngineProcess`."""
        self.fixed_capacity = capacity
        more: dict[str, Any] = {"policy": policy, "max_load": max_load, "serve": serve, "on_wait": on_wait}
        self.devices = [EngineDevices.of(entry) for entry in devices]
        self.processes = [EngineProcess(_placed(options, there), **more) for there in self.devices]

    @property
    def capacity(self) -> int:
        """Sessions that there is room for, those that are placed among them; at least one, so that there is something.

        It follows what chunks take, and is never more than engines were made for.
        """
        if self.fixed_capacity is not None:
            return min(self.fixed_capacity, sum(process.options.slots for process in self.processes))
        return max(1, sum(process.sessions + process.room for process in self.processes))

    async def start(self) -> Measured:
        """Start all, measure what a chunk takes, and make engines for as many sessions as fit.

        Whether chunks overlap is chosen on the first device, for all. Where there are several, all are measured at the
        same time, as they will work.

        Raises:
            FaceLostError: one does not start.
        """
        first, *others = self.processes
        await first.start()
        found = await first.measure()
        for process in others:
            process.options = replace(process.options, overlap=first.options.overlap)
        await asyncio.gather(*(process.start() for process in others))
        if others:
            await asyncio.gather(*(process.measure() for process in self.processes))
        for process in self.processes:
            await self._reserve(process)
        return found

    def place(self, session: str) -> EngineProcess:
        """The process where there is most room; the session is counted there from now on."""
        chosen = min(self.processes, key=lambda process: (not process.alive, -process.room, process.sessions))
        chosen.queue.open(session)
        return chosen

    def numbers(self) -> list[EngineNumbers]:
        """Of every process."""
        return [
            EngineNumbers(
                device=there.name,
                alive=process.alive,
                restarts=max(0, process.restarts),
                sessions=process.sessions,
                slots=process.options.slots,
                load=process.queue.scheduler.load,
                chunk_ms=1000 * process.queue.cost_s,
            )
            for process, there in zip(self.processes, self.devices, strict=True)
        ]

    async def close(self) -> None:
        await asyncio.gather(*(process.close() for process in self.processes))

    async def _reserve(self, process: EngineProcess) -> None:
        period_ms, step_ms = 1000 * process.queue.period_s, 1000 * process.queue.cost_s
        wanted = max(1, process.queue.room)
        if self.fixed_capacity is not None:
            wanted = -(-self.fixed_capacity // len(self.processes))
        made = await process.reserve(wanted)
        log.info(
            "a chunk of %.0f ms takes %.0f ms on %s: room for %d sessions%s",
            *(period_ms, step_ms, process.options.device or "its device", made),
            "" if made == wanted else f", as memory has none for {wanted}",
        )
        if not process.queue.room:
            limit_ms = process.queue.scheduler.max_load * period_ms
            stutters = "will" if step_ms > period_ms else "may"
            log.warning(
                "a chunk takes %.0f ms, must take less than %.0f ms: the picture %s stutter",
                step_ms,
                limit_ms,
                stutters,
            )


def _placed(options: EngineOptions, there: EngineDevices) -> EngineOptions:
    first, *others = there.denoise
    return replace(
        options,
        device=first,
        others=tuple(device for device in others if device is not None),
        parallel=there.parallel,
        decode_device=there.decode,
    )
