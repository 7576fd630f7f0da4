"""The live path on given devices: engine processes behind players, without browser and network."""

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from gwm.contract import Contract
from gwm.no_text import TOKENS
from serve.artifact import read_manifest
from serve.bench.case import DTYPES, Case, random_models
from serve.bench.report import table
from serve.bench.sessions import Viewer
from serve.bench.timing import percentiles
from serve.export import write_artifact
from serve.live.avatar.engine_pool import EnginePool
from serve.live.avatar.engines import EngineOptions
from serve.live.avatar.process_face import ProcessFace
from serve.live.http.session_maker import timing_of
from serve.live.options import EngineDevices, Entry
from serve.parallel.parallelize import check_division

log = logging.getLogger(__name__)

LEAD_MS = 400.0  # as in configs/serve.yaml
APART_S = 0.37  # sessions begin one after the other


@dataclass(frozen=True, kw_only=True)
class LiveCase:
    """Sessions that are shown for a while by engine processes on these devices, as `engines` in configs/serve.yaml."""

    engines: list[Entry]
    artifact: str | None = None
    case: Case | None = None  # of random weights, in the place of an artifact
    sessions: int = 1
    seconds: float | int = 30
    overlap: str = "auto"
    dtype: str = "float32"  # in which the models are computed

    def __post_init__(self) -> None:
        if (self.artifact is None) == (self.case is None):
            raise ValueError(f"live has artifact={self.artifact} and case={self.case}, must have one of them.")
        if not self.engines or self.sessions < 1 or self.seconds < 1:
            raise ValueError(f"live={self} must have engines, sessions and seconds.")

    @property
    def devices(self) -> list[EngineDevices]:
        return [EngineDevices.of(entry) for entry in self.engines]

    @property
    def name(self) -> str:
        what = self.artifact if self.case is None else self.case.name
        return f"{what} on {', '.join(there.name for there in self.devices)}, {self.sessions} sessions"

    @classmethod
    def of(cls, values: dict[str, Any], *, dtype: str) -> "LiveCase":
        """From an entry of `live` in configs/bench.yaml; dtype: of what names none."""
        case: dict[str, Any] | None = values.get("case")
        made: dict[str, Any] = {"dtype": dtype, **values}
        made["case"] = None if case is None else Case(**{"dtype": dtype, **case})
        return cls(**made)


def measure_live(live: LiveCase) -> dict[str, Any]:
    """When engines are ready, how long chunks take behind the queue, and how many of them come in time.

    Raises:
        RuntimeError: a device is not there, or its engine does not start.
        ValueError: the model cannot be divided so.
    """
    _check_devices(live)
    with TemporaryDirectory() as folder:
        artifact = live.artifact
        if live.case is not None:
            artifact = str(_random_artifact(live.case, Path(folder)))
        assert artifact is not None
        contract = Contract.from_json(read_manifest(Path(artifact))["contract"])
        for there in live.devices:
            check_division(contract, len(there.denoise), there.parallel)
        return asyncio.run(_measured(live, artifact, contract))


async def _measured(live: LiveCase, artifact: str, contract: Contract) -> dict[str, Any]:
    options = EngineOptions(artifact=artifact, overlap=live.overlap, dtype=live.dtype, undo_chunks=1)
    pool, begin = EnginePool(options, live.engines, capacity=live.sessions, max_load=1.0), time.perf_counter()
    try:
        found = await pool.start()
        ready_s, timing = time.perf_counter() - begin, timing_of(contract, LEAD_MS, overlap=found.overlap)
        portrait = np.zeros((*contract.picture_size(None), 3), np.uint8)
        names = [str(number) for number in range(live.sessions)]
        viewers = [Viewer(ProcessFace(pool.place(name), name, portrait, seed=0), timing) for name in names]
        watching = (viewer.watch(float(live.seconds), after_s=APART_S * at) for at, viewer in enumerate(viewers))
        await asyncio.gather(*watching)
        shares = [viewer.in_time for viewer in viewers]
        return {
            "case": live.name,
            "engines": [there.name for there in live.devices],
            "sessions": live.sessions,
            "seconds": live.seconds,
            "ready_s": ready_s,
            "period_ms": contract.chunk_ms,
            "overlap": found.overlap,
            "because": found.reason,
            "engine_ms": [numbers.chunk_ms for numbers in pool.numbers()],
            "chunk_ms": percentiles([ms for viewer in viewers for ms in viewer.steps_ms]),
            "in_time": float(np.mean(shares)),
            "worst_in_time": min(shares),
            "stalls": sum(viewer.performer.playout.stalls for viewer in viewers),
            "restarts": [numbers.restarts for numbers in pool.numbers()],
        }
    finally:
        await pool.close()


def live_table(row: dict[str, Any]) -> str:
    """One measurement in words."""
    head = ("live", "of", "chunk p50", "p95", "max", "in time", "worst", "stalls", "ready s", "overlap")
    chunk = (f"{row['chunk_ms'][p]:.1f}" for p in ("p50", "p95", "max"))
    shares = (f"{row[name]:.1%}" for name in ("in_time", "worst_in_time"))
    rest = (str(row["stalls"]), f"{row['ready_s']:.1f}", "on" if row["overlap"] else "off")
    return table([head, (row["case"], f"{row['period_ms']:.0f}", *chunk, *shares, *rest)])


def _check_devices(live: LiveCase) -> None:
    cards = torch.cuda.device_count()
    for there in live.devices:
        for device in (*there.denoise, there.decode):
            if device is not None and device.startswith("cuda") and int(device.partition(":")[2] or 0) >= cards:
                raise RuntimeError(f"{device} is not there: this machine has {cards} cards.")


def _random_artifact(case: Case, folder: Path) -> Path:
    contract = case.contract()
    dit, vae = random_models(contract, device=torch.device("cpu"), dtype=DTYPES[case.dtype])
    networks = {"dit": dit.state_dict(), "vae": vae.state_dict()}
    if width := contract.dit.width("text"):
        networks["no_text"] = {TOKENS: torch.randn(1, width)}
    write_artifact(folder, networks, contract, gates={}, quantised=None)
    return folder
