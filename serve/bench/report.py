"""Results on disk after every part, and as a table."""

import csv
import datetime
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gwm.files.json_text import json_text
from gwm.files.outputs import whole_file
from gwm.report.machine import processor
from gwm.weights import write_json

log = logging.getLogger(__name__)


def machine(device: torch.device) -> dict[str, Any]:
    """Machine and software on which the numbers depend."""
    facts: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "device": properties.name,
            "memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "driver": _driver(),
        }
    return facts


def keep_json(report: Mapping[str, Any], out: str | None) -> str:
    """The report as JSON; in the file `out` too, where there is one."""
    if out:
        write_json(Path(out), report)
    return json_text(report, indent=1)


def write_csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """A table of a page, in a file that is whole or not there."""
    with whole_file(path) as partial, partial.open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


class Results:
    """One JSON file, whole after every `add`: a run that is cut off leaves what it had measured."""

    def __init__(self, folder: Path, name: str, device: torch.device) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.values: dict[str, Any] = {"machine": machine(device)}
        place = self.values["machine"]["device"].lower().replace(" ", "_")
        self.path = folder / f"{name}_{place}_{self.values['machine']['date']}.json"

    def add(self, part: str, value: Mapping[str, Any]) -> None:
        self.values.setdefault(part, []).append(value)
        write_json(self.path, self.values)

    def attempt(self, part: str, label: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `run` measures or, where this device cannot do it (no memory, no kernel), why; both are kept."""
        try:
            value = run()
        except RuntimeError as error:
            log.warning("%s of %s failed, the rest goes on: %s", part, label, error)
            value = {"case": label, "failed": str(error)}
        self.add(part, value)
        return value


def case_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Milliseconds of cases, one line each."""
    head = (
        "case, ms", "pass p50", "floor", "roofline", "of a chunk", "denoise p50", "decode p50",
        "chunk p50", "p95", "p99", "max", "first cold", "warm", "of", "in time", "stalls", "overlap", "late/early",
    )  # fmt: skip
    return table([head, *map(_case_line, rows)])


def _case_line(row: Mapping[str, Any]) -> tuple[str, ...]:
    """An artifact has no line of its own for passes; what was not measured is a dash."""
    passes = ("-", "-", "-", "-")
    if "pass_ms" in row:
        numbers = (f"{x:.1f}" for x in (row["pass_ms"]["p50"], row["floor_ms_per_pass"]))
        passes = (*numbers, f"{row['roofline_fraction']:.0%}", f"{row['chunk_roofline_fraction']:.0%}")
    stages = (f"{row[name]['p50']:.1f}" if name in row else "-" for name in ("denoise_ms", "decode_ms"))
    return (
        row["case"],
        *passes,
        *stages,
        *(f"{row['chunk_ms'][p]:.1f}" for p in ("p50", "p95", "p99", "max")),
        *(f"{row['first_frame_ms'][name]:.0f}" for name in ("cold", "warm")),
        f"{row['period_ms']:.0f}",
        f"{row['deadline_attainment']:.1%}",
        str(row["viewer"]["stalls"]),
        f"{row['overlap']['efficiency']:.2f}" if "overlap" in row else "-",
        f"{row['late']['median']:.3f}" if "late" in row else "-",
    )


def count_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """What cases ask of a machine besides arithmetic, one line each."""
    head = (
        "case", "M parameters", "calls/pass", "calls/chunk", "host reads/chunk", "cache MB/chunk", "peak MB",
        "slope kB/1000 chunks", "graph",
    )  # fmt: skip
    lines = [
        (
            row["case"],
            f"{row['parameters'] / 1e6:.1f}",
            f"{row['kernel_calls_per_pass']:.0f}",
            str(row["kernel_calls_per_chunk"]),
            str(row["host_reads_per_chunk"]),
            f"{row['cache_bytes_per_chunk'] / 1e6:.2f}",
            f"{row['memory_peak_bytes'] / 1e6:.0f}",
            f"{row['memory_slope_bytes_per_1000_chunks'] / 1e3:.0f}",
            "yes" if row["graph"] else "no",
        )
        for row in rows
    ]
    return table([head, *lines])


def policy_table(result: Mapping[str, Any]) -> str:
    """What a scheduling policy is worth, one line for each number of streams."""
    by_count: dict[int, list[Mapping[str, Any]]] = {}
    for row in result["policies"]:
        by_count.setdefault(row["streams"], []).append(row)
    names = [row["policy"] for row in next(iter(by_count.values()))]
    head = ("streams of " + result["case"], "load", *(f"{name} in time" for name in names))
    lines = [
        (
            str(count),
            f"{rows[0]['load']:.2f}",
            *(f"{row['on_time']:.1%}" for row in rows),
            *(f"{row['stalls_per_minute']:.1f}" for row in rows),
        )
        for count, rows in by_count.items()
    ]
    return table([(*head, *(f"{name} stalls/min" for name in names)), *lines])


def ratio_table(result: Mapping[str, Any]) -> str:
    """Variants of a comparison: milliseconds, and how many times as long as the engine each took."""
    title = next(key for key in result if key.startswith("times as long"))
    lines: list[tuple[str, ...]] = [(result["case"], "p50 ms", "p95 ms", title, "quartiles")]
    for name, times in result["chunk_ms"].items():
        ratio = result[title].get(name)
        shown = ("1.00", "") if ratio is None else (f"{ratio['median']:.2f}", f"{ratio['q1']:.2f} to {ratio['q3']:.2f}")
        lines.append((name, f"{times['p50']:.1f}", f"{times['p95']:.1f}", *shown))
    return table(lines)


def kernel_table(result: Mapping[str, Any]) -> str:
    """Our kernels, one line each; plain: how many times as long PyTorch takes for the same."""
    lines = [
        (
            name,
            f"{row['us']['kernel']:.1f}",
            f"{row['share_of_copy']:.0%}",
            f"{row['plain_over_kernel']['median']:.2f}",
        )
        for name, row in result["kernels"].items()
    ]
    return table([("kernels of " + result["case"], "us", "of a copy's bytes/s", "plain"), *lines])


def table(lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, the first to the left."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))
        )
        for line in lines
    )


def _driver() -> str:
    version = Path("/proc/driver/nvidia/version")
    return version.read_text().splitlines()[0] if version.is_file() else "unknown"
