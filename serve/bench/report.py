"""Results on disk after every part, and as a table."""

import datetime
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gwm.weights import write_json


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on."""
    facts: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": _cpu(),
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


class Results:
    """One JSON file, whole after every `add`: a run that is cut off leaves what it had measured."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.values: dict[str, Any] = {"machine": machine(device)}
        name = self.values["machine"]["device"].lower().replace(" ", "_")
        self.path = folder / f"{name}_{self.values['machine']['date']}.json"

    def add(self, part: str, value: Mapping[str, Any] | Sequence[Any]) -> None:
        self.values.setdefault(part, []).append(value)
        write_json(self.path, self.values)


def case_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Milliseconds of cases, one line each."""
    head = (
        "case", "pass p50", "floor", "roofline", "denoise p50", "decode p50", "chunk p95", "p99", "max", "cold", "warm",
        "in time", "stalls", "overlap",
    )  # fmt: skip
    lines = [
        (
            row["case"],
            *(f"{x:.1f}" for x in (row["pass_ms"]["p50"], row["floor_ms_per_pass"])),
            f"{row['roofline_fraction']:.0%}",
            *(f"{row[name]['p50']:.1f}" for name in ("denoise_ms", "decode_ms")),
            *(f"{row['chunk_ms'][p]:.1f}" for p in ("p95", "p99", "max")),
            *(f"{row['first_frame_ms'][name]:.0f}" for name in ("cold", "warm")),
            f"{row['deadline_attainment']:.1%}",
            str(row["viewer"]["stalls"]),
            f"{row['overlap']['efficiency']:.2f}" if row["overlap"] else "-",
        )
        for row in rows
    ]
    return table([head, *lines])


def ratio_table(result: Mapping[str, Any]) -> str:
    """Candidates of a ladder: milliseconds, and how many times as long as the engine each took."""
    title = next(key for key in result if key.startswith("times as long"))
    lines: list[tuple[str, ...]] = [(result["case"], "p50 ms", "p95 ms", title, "quartiles")]
    for name, times in result["chunk_ms"].items():
        ratio = result[title].get(name)
        shown = ("1.00", "") if ratio is None else (f"{ratio['median']:.2f}", f"{ratio['q1']:.2f} to {ratio['q3']:.2f}")
        lines.append((name, f"{times['p50']:.1f}", f"{times['p95']:.1f}", *shown))
    return table(lines)


def table(lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, the first to the left."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))
        )
        for line in lines
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _driver() -> str:
    version = Path("/proc/driver/nvidia/version")
    return version.read_text().splitlines()[0] if version.is_file() else "unknown"
