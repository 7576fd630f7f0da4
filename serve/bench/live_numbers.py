"""Numbers from the raw observations of a browser and of the kernel."""

from collections.abc import Mapping, Sequence

import numpy as np

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
