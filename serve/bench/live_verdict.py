"""Requirements of a live conversation, each beside the measured value."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gwm.files.json_text import json_text
from gwm.files.outputs import whole_file
from serve.bench.report import table

FPS, FPS_OFF = 24.0, 0.5
CLOCK_OFF = 0.005
MOVED_MS, OFFSET_MS = 20.0, 45.0
GROWTH_PERCENT = 5.0
ANSWER_MS, SILENT_MS, LEAD_MS = 1750.0, 150.0, 300.0
PARTS = ("turn", "stt", "llm", "tts", "chunk", "pacing")


@dataclass(frozen=True, slots=True)
class Row:
    """One requirement; `reached` is None where the run did not measure it."""

    what: str
    required: str
    measured: str
    reached: bool | None


def verdict(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each requirement, in the order of importance to somebody who talks."""
    alone = report["alone"]
    rows = [*_picture(alone), *_sound_against_picture(report), *_memory(alone["memory_mb"]), *_conversation(alone)]
    if "others" in report:
        rows += _others(report)
    return [asdict(row) for row in rows]


def verdict_table(rows: list[dict[str, Any]]) -> str:
    """The rows for a person."""
    words = {True: "yes", False: "NO", None: "not measured"}
    lines = [(row["what"], row["required"], row["measured"], words[row["reached"]]) for row in rows]
    return table([("what", "required", "measured", "reached"), *lines])


def keep(report: dict[str, Any], out: str | None) -> str:
    """The report and what it reaches, as JSON; into the file too, where there is one."""
    text = json_text(report | {"verdict": verdict(report)}, indent=1)
    if out:
        with whole_file(Path(out)) as partial:
            partial.write_text(text + "\n")
    return text


def _picture(seen: dict[str, Any], when: str = "") -> Iterator[Row]:
    fps, clock, freezes = seen["fps"], seen["rtp_over_wall"], seen["freezes"]
    length = f"{seen['seconds'] / 60:.1f} min"
    yield Row(f"frames per second{when}", f"{FPS:.0f} +- {FPS_OFF}", f"{fps} over {length}", abs(fps - FPS) <= FPS_OFF)
    yield Row(f"freezes above 200 ms{when}", "0", str(freezes), freezes == 0)
    yield Row(f"RTP clock over wall{when}", f"1 +- {CLOCK_OFF}", str(clock), abs(clock - 1) <= CLOCK_OFF)


def _sound_against_picture(report: dict[str, Any]) -> Iterator[Row]:
    """By the browser's own clocks over the whole run, and by flashes and beeps without the page's own delays."""
    clocks, flashes = report["alone"]["video_minus_audio_ms"], report.get("flash_minus_beep_ms")
    pairs = [("by the browser's clocks", clocks, 0.0)]
    if flashes and flashes["server"]["count"] and flashes["bias"]["count"]:
        pairs.append(("by flash and beep", flashes["server"], flashes["bias"]["p50"]))
    for how, offset, bias in pairs:
        middle = offset["p50"] - bias if offset["count"] else None
        moved = offset["moved"] if offset["count"] else None
        yield _within(f"picture behind sound, {how}", middle, OFFSET_MS, "ms")
        yield _within(f"the same, moved over the run, {how}", moved, MOVED_MS, "ms")


def _memory(sizes: dict[str, dict[str, Any]]) -> Iterator[Row]:
    for process, size in sizes.items():
        yield _within(f"memory of the {process}, grown", size["change_percent"], GROWTH_PERCENT, "%")


def _conversation(seen: dict[str, Any]) -> Iterator[Row]:
    answers = seen["answer_ms"]
    yield _at_most("end of speech to first frame, median", answers.get("total", {}).get("p50"), ANSWER_MS)
    parts = {part: answers[part]["p50"] for part in PARTS if part in answers}
    named = ", ".join(f"{part} {ms:.0f}" for part, ms in parts.items())
    yield Row("its parts, medians in ms", "each", named or "-", len(parts) == len(PARTS) if answers else None)
    yield _at_most("silent after an interruption, slowest", seen["silent_after_interruption_ms"].get("max"), SILENT_MS)
    yield _at_most("engine ahead of playout, most", seen["lead_ms"].get("max"), LEAD_MS)
    stalls = seen["stalls"]
    measured = "-" if stalls is None else str(stalls)
    yield Row("stalls of sound and picture", "0", measured, None if stalls is None else stalls == 0)
    yield Row("errors shown to the visitor", "0", str(len(seen["errors"])), not seen["errors"])


def _others(report: dict[str, Any]) -> Iterator[Row]:
    yield from _picture(report["with_others_knocking"], " while others knock")
    refused = [knock["status"] == 429 and bool(knock["retry_after"]) for knock in report["others"]]
    measured = ", ".join(f"{knock['status']} after {knock['retry_after']}" for knock in report["others"])
    yield Row("the others are refused", "429, Retry-After", measured or "-", all(refused) if refused else None)


def _within(what: str, value: float | None, limit: float, unit: str) -> Row:
    measured = "-" if value is None else f"{value:+.1f} {unit}"
    return Row(what, f"+- {limit:.0f} {unit}", measured, None if value is None else abs(value) <= limit)


def _at_most(what: str, value: float | None, limit_ms: float) -> Row:
    measured = "-" if value is None else f"{value:.0f} ms"
    return Row(what, f"<= {limit_ms:.0f} ms", measured, None if value is None else value <= limit_ms)
