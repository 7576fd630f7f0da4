"""Numbers from the raw observations of a browser and of the kernel, each requirement beside the measured value."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from serve.bench.report import keep_json, table

FREEZE_MS = 200.0  # a gap that a viewer notices
# A browser aligns sound and picture when it knows both clocks, which takes reports of the sender, in steps of at most
# 80 ms; with Chromium itself as the sender the offset is at its end after 15 to 25 s (2026-11, 2 cores).
SETTLE_S = 25.0
WARM_UP = 0.25  # of a run: the share in which caches fill and every part has worked once
FLOOR_S = 60.0  # in which a server is silent at lows once
POINTS = 60  # of a curve in the report


def spread(values: Sequence[float | int]) -> dict[str, float]:
    """5th, 50th and 95th percentile and the largest; of nothing, nothing."""
    if not len(values):
        return {}
    low, middle, high, top = np.percentile(values, [5, 50, 95, 100]).tolist()
    return {"p5": round(low, 1), "p50": round(middle, 1), "p95": round(high, 1), "max": round(top, 1)}


def drift(values: Sequence[float]) -> dict[str, float | int]:
    """Spread, and how far the median of the last quarter is from that of the first."""
    quarter = max(1, len(values) // 4)
    moved = float(np.median(values[-quarter:]) - np.median(values[:quarter])) if len(values) else 0.0
    return {**spread(values), "count": len(values), "moved": round(moved, 1)}


def growth(sizes: Sequence[float], *, every_s: float) -> dict[str, float | list[int] | None]:
    """How a size goes on after the warm-up: the slope and the whole change, in percent, of each minute's smallest.

    A sentence that is being spoken takes memory and gives it back; what leaks is missing between two sentences too. The
    change is None for a run too short to have two such windows.
    """
    settled = np.asarray(sizes[round(WARM_UP * len(sizes)) :], float)
    window = max(1, min(round(FLOOR_S / every_s), len(settled) // 4))
    lows = [part.min() for part in np.split(settled, range(window, len(settled), window)) if len(part) == window]
    minutes = np.arange(len(lows)) * window * every_s / 60
    slope = np.polyfit(minutes, lows, 1)[0] if len(lows) > 1 else 0.0
    return {
        "start": round(sizes[0], 1),
        "warm": round(float(lows[0]), 1),
        "end": round(float(lows[-1]), 1),
        "peak": round(float(settled.max()), 1),
        "slope_per_minute": round(float(slope), 3),
        "change_percent": round(float(100 * (lows[-1] - lows[0]) / lows[0]), 2) if len(lows) > 1 else None,
        "curve": [round(size) for size in sizes[:: max(1, len(sizes) // POINTS)]],
    }


def picture(seen: Mapping, *, times: str = "times", clock: str = "clock") -> dict[str, object]:
    """Frame rate, gaps, freezes and the clock of the picture.

    seen: milliseconds at which frames were presented, and their RTP time stamps in ticks of 90 kHz.
    """
    at, rtp = np.asarray(seen[times], float), np.asarray(seen[clock], float)
    gaps, wall_ms = np.diff(at), float(at[-1] - at[0])
    ticks = np.diff(rtp) % 2**32  # the time stamp wraps
    seconds = np.histogram(at - at[0], bins=np.arange(0, wall_ms + 1, 1000))[0]
    return {
        "seconds": round(wall_ms / 1000, 1),
        "fps": round(1000 * len(gaps) / wall_ms, 2),
        "fps_by_second": spread(seconds.tolist()),
        "rtp_over_wall": round(float(ticks.sum() / 90 / wall_ms), 4),
        "gap_ms": spread(gaps.tolist()),
        "freezes": int((gaps > FREEZE_MS).sum()),
        "freeze_ms": [round(gap) for gap in gaps if gap > FREEZE_MS],
    }


def paired(flashes: Sequence[float], beeps: Sequence[float], *, within_ms: float) -> list[float]:
    """How much later than its beep each flash came, negative where it came first; those without a partner left out."""
    sounds = np.asarray(beeps)
    if not len(sounds):
        return []
    distances = [flash - sounds[np.abs(sounds - flash).argmin()] for flash in flashes]
    return [float(distance) for distance in distances if abs(distance) < within_ms]


FPS, FPS_OFF = 24.0, 0.5
CLOCK_OFF = 0.005
MOVED_MS, OFFSET_MS = 20.0, 45.0
GROWTH_PERCENT = 5.0
STAGES_OFF = 0.05  # of the slower stage: what a chunk may take, from one to the next
ANSWER_MS, SILENT_MS, LEAD_MS = 1750.0, 150.0, 400.0
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
    rows = [*_stages(report), *_picture(alone), *_sound_against_picture(report)]
    rows += [*_memory(alone["memory_mb"]), *_conversation(alone)]
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
    return keep_json(report | {"verdict": verdict(report)}, out)


def _stages(report: dict[str, Any]) -> Iterator[Row]:
    """Where `stages` says how long each takes: overlapped, a chunk takes as long as the slower one."""
    if "stages_ms" in report:
        slower, found = max(report["stages_ms"].values()), report["chunk_ms"]["start"]
        required = f"{slower:.0f} ms +- {100 * STAGES_OFF:.0f} %"
        yield Row("from chunk to chunk", required, f"{found:.1f} ms", abs(found - slower) <= STAGES_OFF * slower)


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
