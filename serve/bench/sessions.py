"""Sessions that share an engine, by policy: python -m serve.bench.sessions out=docs/experiments/sessions

Chunks take their time asleep and need none of the processor; all else is the live server's own: queue, scheduler,
engine process, and players that run dry when a chunk is late. Each case runs for minutes of simulated time, and for
seconds of real time with the engine in a process of its own. Writes JSON and a table.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from configs.command.main import command
from gwm.files.outputs import check_output
from gwm.weights import write_json
from serve.acts import Applied
from serve.bench import turned_clock
from serve.bench.report import machine, table, write_csv
from serve.bench.simulation import spread
from serve.live.avatar.changes import Act, ChangeRefusedError
from serve.live.avatar.chunk_times import StreamTiming
from serve.live.avatar.engine_pool import EnginePool
from serve.live.avatar.engine_process import EngineProcess
from serve.live.avatar.engines import EngineOptions
from serve.live.avatar.overlap import Measured
from serve.live.avatar.performer import Performer
from serve.live.avatar.process_face import ProcessFace
from serve.scheduler import POLICIES

log = logging.getLogger(__name__)

TIMING = StreamTiming(
    chunk_samples=4_000, lookahead_samples=0, frame_samples=1_000, sample_rate=24_000, lead_samples=7_200
)
CHUNK_S = TIMING.chunk_samples / TIMING.sample_rate
PACKET = 480  # samples that a player takes at a time
FRAMES = np.zeros((4, 2, 2, 3), np.uint8)
PORTRAIT = FRAMES[0]
ODD = "odd"  # the session that is slow or hostile
CHANGE_S, CHANGES_PER_S = 0.02, 50  # what a hostile session asks for: all of the engine's time
APART_S = 0.37  # sessions begin one after the other
COLUMNS = ("case", "sessions", "load", *(f"{policy}, {how}" for policy in POLICIES for how in ("simulated", "real")))


@dataclass(frozen=True, kw_only=True)
class Case:
    """Sessions whose chunks take `chunk_ms`, with or without one that is not like the others."""

    name: str
    sessions: int  # the odd one not counted
    chunk_ms: float
    slow_ms: float | None = None  # of a further session's chunks
    hostile: bool = False  # a further session asks for more changes than there is time for

    @property
    def load(self) -> float:
        """Share of the engine's time that chunks would take, if all were made."""
        odd_ms = self.slow_ms if self.slow_ms is not None else self.chunk_ms * self.hostile
        return (self.sessions * self.chunk_ms + odd_ms) / 1000 / CHUNK_S


class Asleep:
    """What an engine process answers, and after how many seconds."""

    def __init__(self, case: Case, seed: int) -> None:
        self.case, self.random = case, random.Random(seed)

    def answer(self, name: str, arguments: Sequence[Any]) -> tuple[Any, float]:
        match name:
            case "measure":
                ms = self.case.chunk_ms
                return Measured(overlap=False, chunk_ms=1000 * CHUNK_S, sequential_ms=ms, overlapped_ms=None), 0.0
            case "reserve":
                return arguments[0], 0.0
            case "step":
                slow = self.case.slow_ms if arguments[0] == ODD else None
                return FRAMES, spread((self.case.chunk_ms if slow is None else slow) / 1000, self.random)
            case "change":
                return Applied(0, 0.0), CHANGE_S
        return None, 0.0


def serve_asleep(connection: Connection, options: EngineOptions, asleep: Asleep) -> None:
    """As `serve_engines`."""
    connection.send((None, None))
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            answer, seconds = asleep.answer(*connection.recv())
            time.sleep(seconds)
            connection.send((answer, None))


class ProcessAsleep(EngineProcess):
    """Without a process: it sleeps on the loop's clock, which may be turned."""

    def __init__(self, options: EngineOptions, asleep: Asleep, **more: Any) -> None:
        super().__init__(options, **more)
        self.asleep = asleep

    async def start(self) -> None: ...

    async def _submit(self, name: str, arguments: tuple[Any, ...], timeout_s: float) -> Any:
        answer, seconds = self.asleep.answer(name, arguments)
        await asyncio.sleep(seconds)
        return answer


class Viewer:
    """A performer, and a player that plays it in real time of the loop from its first chunk on."""

    def __init__(self, face: Any, timing: StreamTiming = TIMING) -> None:
        self.outcomes, self.steps_ms = Counter[str](), list[float]()
        count = lambda outcome: self.outcomes.update([outcome])  # noqa: E731
        self.performer = Performer(face, timing, on_step=self.steps_ms.append, on_chunk=count)

    @property
    def in_time(self) -> float:
        """Share of the chunks that had to be there."""
        return self.outcomes["in_time"] / max(1, self.outcomes.total())

    async def watch(self, seconds: float, *, after_s: float = 0.0) -> None:
        await asyncio.sleep(after_s)
        performing = asyncio.create_task(self.performer.run())
        await self.performer.playout.wait_until_ready(self.performer.timing.chunk_samples)
        loop = asyncio.get_running_loop()
        try:
            for due_s in packets(loop.time(), seconds):
                self.performer.playout.advance(PACKET)
                await asyncio.sleep(due_s - loop.time())
        finally:
            performing.cancel()


def packets(begin_s: float, seconds: float) -> Iterator[float]:
    """When each packet is over."""
    packet_s = PACKET / TIMING.sample_rate
    for number in range(round(seconds / packet_s)):
        yield begin_s + (number + 1) * packet_s


async def flood(process: EngineProcess) -> None:
    """Ask for changes for ever, without waiting for any."""

    async def change() -> None:
        with contextlib.suppress(ChangeRefusedError):
            await process.call("change", ODD, Act({"jawOpen": 0.5}))

    async with asyncio.TaskGroup() as group:
        while True:
            group.create_task(change())
            await asyncio.sleep(1 / CHANGES_PER_S)


async def watched(process: EngineProcess, case: Case, seconds: float) -> dict[str, float | None]:
    """Shares of chunks in time: the mean and the worst of the sessions that are alike, and the odd one's."""
    await process.start()
    await process.measure()
    names = [str(number) for number in range(case.sessions)]
    viewers = {name: Viewer(ProcessFace(process, name, PORTRAIT, seed=0)) for name in names}
    if case.slow_ms is not None:
        viewers[ODD] = Viewer(ProcessFace(process, ODD, PORTRAIT, seed=0))
    flooding = asyncio.create_task(flood(process)) if case.hostile else None
    watching = [
        asyncio.create_task(viewer.watch(seconds, after_s=APART_S * number))
        for number, viewer in enumerate(viewers.values())
    ]
    await asyncio.wait(watching, timeout=2 * seconds + APART_S * len(viewers))
    for task in (*watching, *([flooding] if flooding else [])):
        task.cancel()
    shares = [viewers[name].in_time for name in names]
    odd = viewers[ODD].in_time if ODD in viewers else None
    return {"in_time": float(np.mean(shares)), "worst_in_time": min(shares), "odd_in_time": odd}


def simulated(case: Case, policy: str, *, seconds: float, seed: int) -> dict[str, float | None]:
    """As `watched`, on a turned clock."""
    process = ProcessAsleep(EngineOptions(artifact="none"), Asleep(case, seed), policy=POLICIES[policy])
    return turned_clock.run(watched(process, case, seconds))


def real(case: Case, policy: str, *, seconds: float, seed: int) -> dict[str, float | None]:
    """As `watched`, with a process, in real time."""

    async def run() -> dict[str, float | None]:
        serve = partial(serve_asleep, asleep=Asleep(case, seed))
        process = EngineProcess(EngineOptions(artifact="none"), policy=POLICIES[policy], serve=serve)
        try:
            return await watched(process, case, seconds)
        finally:
            await process.close()

    return asyncio.run(run())


def capacity(chunk_ms: float, max_load: float) -> int:
    """Sessions that a server of this engine lets in."""

    async def run() -> int:
        case = Case(name="capacity", sessions=0, chunk_ms=chunk_ms)
        serve = partial(serve_asleep, asleep=Asleep(case, 0))
        pool = EnginePool(EngineOptions(artifact="none"), ["cpu"], max_load=max_load, serve=serve)
        try:
            await pool.start()
            return pool.capacity
        finally:
            await pool.close()

    return asyncio.run(run())


def cases(cfg: Mapping[str, Any]) -> list[Case]:
    """All of the settings."""
    chunk_ms = cfg["chunk_ms"]
    made = [Case(name="alike", sessions=count, chunk_ms=chunk_ms) for count in cfg["sessions"]]
    made += [Case(name="too many", sessions=n, chunk_ms=cfg["overload_ms"]) for n in cfg["overload_sessions"]]
    made.append(Case(name="one is slow", sessions=cfg["others"], chunk_ms=chunk_ms, slow_ms=cfg["slow_ms"]))
    made.append(Case(name="one is hostile", sessions=cfg["others"], chunk_ms=chunk_ms, hostile=True))
    return made


def run(case: Case, cfg: Mapping[str, Any]) -> dict[str, Any]:
    """One row: every policy, simulated and real."""
    row: dict[str, Any] = {**asdict(case), "load": round(case.load, 3), "policies": {}}
    for policy in POLICIES:
        row["policies"][policy] = {
            "simulated": simulated(case, policy, seconds=cfg["simulated_s"], seed=cfg["seed"]),
            "real": real(case, policy, seconds=cfg["real_s"], seed=cfg["seed"]),
        }
    log.info("%s", row)
    return row


def rows_of(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Cells as the page shows them: shares of chunks in time of the sessions that are alike."""
    return [
        COLUMNS,
        *(
            (
                row["name"],
                f"{row['sessions']}",
                f"{row['load']:.2f}",
                *(
                    f"{100 * row['policies'][policy][how]['in_time']:.1f} %"
                    for policy in POLICIES
                    for how in ("simulated", "real")
                ),
            )
            for row in found["cases"]
        ),
    ]


@command("bench_sessions", verbatim=("out",))
def main(cfg: DictConfig) -> None:
    values: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    out = Path(values["out"])
    check_output(out.with_suffix(".json"))
    found: dict[str, Any] = {"machine": machine(torch.device("cpu")), "settings": values}
    found["capacity"] = capacity(values["chunk_ms"], values["max_load"])
    found["cases"] = [run(case, values) for case in cases(values)]
    write_json(out.with_suffix(".json"), found)
    write_csv(out.with_suffix(".csv"), rows_of(found))
    log.info("\n%s\n%s", table(rows_of(found)), out.with_suffix(".json"))


if __name__ == "__main__":
    main()
