"""How long people wait for a place and how many are turned away, by the load of fleets; and what a fleet needs.

python -m serve.bench.capacity
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from configs.command.main import command
from gwm.files.outputs import check_output, whole_file
from gwm.resolution import Resolution
from gwm.weights import write_json
from serve.bench.capacity_plan import Device, Plan, Point, Use, plan
from serve.bench.fleet_simulation import SAMPLE_S, Demand, Failures, Machine, simulate
from serve.bench.report import machine as this_machine
from serve.bench.report import table, write_csv
from serve.runway_api.session_queue import MAX_WAITING, QUEUE_S, max_waiting
from serve.store.database import Store
from serve.store.tables import Session

matplotlib.use("Agg")  # no screen
log = logging.getLogger(__name__)

COLOURS = ("#64748b", "#059669", "#2563eb")
WARM_UP_S = 600.0
FILLS_S = 1800.0  # as long as a queue takes to become as long as it will be, where more ask than can be served
STORE_S = 5.0  # in which a store is measured
CURVES = ("load", "places", "wait, median", "wait, 95th percentile", "refused at once", "gave up", "places in use")
PLANNED = (
    "sessions at a time", "load", "places", "devices", "cores", "egress", "of it through TURN", "starts",
    "store writes", "stores",
)  # fmt: skip


def curve(machines: int, machine: Machine, cfg: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What became of those who asked, at each load."""
    rows = []
    for load in cfg["loads"]:
        demand = Demand(load=load, mean_s=cfg["mean_s"], longest_s=cfg["longest_s"])
        places = machines * machine.devices * Device(cores=1, **_of_device(machine)).places
        seconds = max(60.0 * cfg["minutes"], cfg["sessions"] * demand.session_s / (load * places))
        found, outcome = simulate(
            machines,
            machine,
            demand,
            Failures(mean_h=cfg["failure_h"], repair_s=cfg["repair_s"]),
            seed=cfg["seed"],
            warm_up_s=FILLS_S if load >= 1 else WARM_UP_S,
            seconds=seconds,
        )
        assert found == places, (found, places)
        rows.append({"machines": machines, "places": places, "load": load, **outcome.summary(places)})
        log.info("%s", rows[-1])
    return rows


def incident(machines: int, machine: Machine, cfg: Mapping[str, Any]) -> dict[str, Any]:
    """A share of all machines fails at once: who waits then, by how many may."""
    settings = cfg["incident"]
    demand = Demand(load=settings["load"], mean_s=cfg["mean_s"], longest_s=cfg["longest_s"])
    failures = Failures(at_s=WARM_UP_S + settings["at_s"], share=settings["share"], repair_s=cfg["repair_s"])
    found: dict[str, Any] = {**settings, "sample_s": SAMPLE_S}
    for name, limit in (("as many as there are places", max_waiting), (f"{MAX_WAITING}", lambda places: MAX_WAITING)):
        places, outcome = simulate(
            machines,
            machine,
            demand,
            failures,
            seed=cfg["seed"],
            warm_up_s=WARM_UP_S,
            seconds=settings["seconds"],
            limit=limit,
        )
        found[name] = {**outcome.summary(places), "waiting": outcome.waiting}
    return found


def store_writes_per_s(seconds: float) -> float:
    """Transactions of a session (created, ready, ended) that SQLite in a file does here, one after the other."""
    with TemporaryDirectory() as folder:
        store, number, begin = Store(f"sqlite:///{folder}/gwm.sqlite"), 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            row = Session(status="NOT_READY", avatar_name="Nobody", tools=[], max_s=300)
            store.do(lambda db, row=row: db.add(row))
            for status in ("READY", "COMPLETED"):
                store.do(lambda db, row=row, status=status: setattr(db.get(Session, row.id), "status", status))
            number += 3
        rate = number / (time.perf_counter() - begin)
        store.close()
    return rate


def curve_rows(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Cells as the page shows them."""
    return [
        CURVES,
        *(
            (
                f"{row['load']:.2f}",
                f"{row['places']}",
                f"{row['wait_s_p50']:.1f} s",
                f"{row['wait_s_p95']:.1f} s",
                f"{100 * row['refused_share']:.1f} %",
                f"{100 * row['gave_up_share']:.1f} %",
                f"{100 * row['used_share']:.1f} %",
            )
            for row in sorted(rows, key=lambda row: (row["places"], row["load"]))
        ),
    ]


def plan_rows(plans: Sequence[Plan]) -> list[tuple[str, ...]]:
    """Cells as the page shows them."""
    return [
        PLANNED,
        *(
            (
                f"{one.sessions}",
                f"{one.load:g}",
                f"{one.places}",
                f"{one.devices}",
                f"{one.cores}",
                f"{one.egress_mbit_s:.1f} Mbit/s",
                f"{one.turn_mbit_s:.1f} Mbit/s",
                f"{one.starts_per_s:.3g} a second",
                f"{one.writes_per_s:.3g} a second",
                f"{one.stores}",
            )
            for one in plans
        ),
    ]


def measured(cfg: Mapping[str, Any]) -> tuple[Device, Use]:
    """The device and how people use it, from committed files.

    Raises:
        ValueError: the bench has no such size, or a chunk takes too long for one session.
        FileNotFoundError: a file is not there.
    """
    artifacts = json.loads(Path(cfg["bench"]).read_text())["artifacts"]
    row = next((row for row in artifacts if row.get("size_px") == [cfg["size"]] * 2), None)
    if row is None:
        sizes = [row.get("size_px") for row in artifacts]
        raise ValueError(f"size={cfg['size']} must be one that {cfg['bench']} has: {sizes}.")
    chunk_ms = cfg["chunk_ms"] if cfg["chunk_ms"] is not None else row["chunk_ms"]["p50"]
    device = Device(
        cores=cfg["cores"], period_s=row["period_ms"] / 1000, chunk_s=chunk_ms / 1000, max_load=cfg["max_load"]
    )
    alone = json.loads(Path(cfg["live"]).read_text())["alone"]
    captions = 2 * alone["answers"] / alone["seconds"]  # a question and its answer
    return device, Use(mean_s=cfg["mean_s"], captions_per_s=captions, turn_share=cfg["turn_share"])


def planned(cfg: Mapping[str, Any], values: Mapping[str, Any]) -> list[Plan]:
    """A plan for each number of sessions, on the curves in `values`.

    Raises:
        ValueError, FileNotFoundError: as `measured`.
    """
    device, use = measured(cfg)
    points = [
        Point(row["places"], row["load"], row["wait_s_p95"], row["refused_share"] + row["gave_up_share"])
        for row in values["curves"]
    ]
    side = cfg["size"]
    return [
        plan(
            sessions,
            points,
            device=device,
            frame=Resolution(side, side),
            use=use,
            store_writes_per_s=values["store_writes_per_s"],
        )
        for sessions in cfg["planned"]
    ]


def draw(path: Path, values: Mapping[str, Any]) -> None:
    """Write the picture: waiting and turning away by load, and the queue after a share of the machines has failed."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    waits, away, after = figure.subplots(1, 3)
    for colour, places in zip(COLOURS, sorted({row["places"] for row in values["curves"]}), strict=False):
        rows = sorted((row for row in values["curves"] if row["places"] == places), key=lambda row: row["load"])
        loads = [row["load"] for row in rows]
        waits.plot(loads, [row["wait_s_p95"] for row in rows], "o-", color=colour, label=f"{places} places")
        away.plot(loads, [100 * (row["refused_share"] + row["gave_up_share"]) for row in rows], "o-", color=colour)
    waits.axhline(QUEUE_S, color="#94a3b8", linestyle=":")
    loads = sorted({row["load"] for row in values["curves"]})
    away.plot(loads, [100 * max(0.0, 1 - 1 / load) for load in loads], ":", color="#94a3b8", label="nobody can avoid")
    outage = values["incident"]
    for colour, (name, run) in zip(("#2563eb", "#ea580c"), _runs(outage).items(), strict=True):
        minutes = [outage["sample_s"] * number / 60 for number in range(len(run["waiting"]))]
        after.plot(minutes, run["waiting"], color=colour, label=f"{name}: {100 * run['refused_share']:.1f} % refused")
    waits.set(title="wait for a place, 95th percentile, s", xlabel="sessions asked for, over places")
    away.set(title="turned away, %", xlabel="sessions asked for, over places")
    after.set(title=f"who waits, {100 * outage['share']:.0f} % of machines fail at once", xlabel="minutes")
    for axes in (waits, away, after):
        axes.legend(frameon=False)
    after.legend(frameon=False, title="may wait")
    with whole_file(path) as partial:
        figure.savefig(partial, metadata={"Date": None})


def _runs(outage: Mapping[str, Any]) -> dict[str, Any]:
    return {name: run for name, run in outage.items() if isinstance(run, dict)}


def _of_device(machine: Machine) -> dict[str, float]:
    return {"period_s": machine.period_s, "chunk_s": machine.chunk_s, "max_load": machine.max_load}


def simulated(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Curves of all fleets, the incident in the largest, and what the store does."""
    device, _ = measured(cfg)
    machine = Machine(
        devices=cfg["devices"], period_s=device.period_s, chunk_s=device.chunk_s, max_load=device.max_load
    )
    values: dict[str, Any] = {"machine": this_machine(torch.device("cpu")), "settings": dict(cfg)}
    values["store_writes_per_s"] = store_writes_per_s(STORE_S)
    values["curves"] = [row for machines in cfg["machines"] for row in curve(machines, machine, cfg)]
    values["incident"] = incident(max(cfg["machines"]), machine, cfg)
    return values


@command("bench_capacity", verbatim=("bench", "live", "points", "out"))
def main(cfg: DictConfig) -> None:
    values: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    logging.getLogger("serve.live").setLevel(logging.WARNING)  # of a million sessions
    out = Path(values["out"])
    check_output(out.with_suffix(".json"))
    found = simulated(values) if values["points"] is None else json.loads(Path(values["points"]).read_text())
    plans = planned(values, found)
    found["plans"] = [asdict(one) for one in plans]
    write_json(out.with_suffix(".json"), found)
    write_csv(out.with_name(f"{out.name}_curves.csv"), curve_rows(found["curves"]))
    write_csv(out.with_name(f"{out.name}_plan.csv"), plan_rows(plans))
    draw(out.with_suffix(".svg"), found)
    log.info("\n%s\n\n%s\n%s", table(curve_rows(found["curves"])), table(plan_rows(plans)), out.with_suffix(".json"))


if __name__ == "__main__":
    main()
