"""Many live streams on one simulated device, to compare scheduling policies."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from serve.bench.viewer import Watched, watch
from serve.scheduler import Policy, Scheduler


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """A live stream: the sound of chunk i is there at open_s + i period_s, its frames must be `lead_s` later."""

    name: str
    open_s: float
    period_s: float
    lead_s: float
    cost_s: float
    arrivals_s: list[float] = field(default_factory=list)

    def deadline_s(self, chunk: int) -> float:
        return self.open_s + chunk * self.period_s + self.lead_s

    def on_time(self, until_s: float) -> float:
        """Share of the chunks due until then that met their deadline; what was never made missed it."""
        num_due = 1 + int((until_s - self.open_s - self.lead_s) / self.period_s)
        met = [arrival <= self.deadline_s(chunk) + 1e-9 for chunk, arrival in enumerate(self.arrivals_s[:num_due])]
        return sum(met) / num_due

    def watched(self) -> Watched:
        return watch(self.arrivals_s, period_s=self.period_s, buffer_chunks=round(self.lead_s / self.period_s))


def spread(cost_s: float, generator: random.Random) -> float:
    """A chunk's time: within a few percent of its cost, and one in fifty half as long again."""
    return cost_s * max(0.5, generator.gauss(1, 0.03)) * (1.5 if generator.random() < 0.02 else 1)


def speakers(count: int, *, seed: int, cost_s: float, period_s: float) -> list[Speaker]:
    """Streams of one model that began at random times, for players that buffer one, two or three chunks."""
    generator = random.Random(seed)
    leads_s = [(1 + number % 3) * period_s for number in range(count)]
    return [
        Speaker(name=str(number), open_s=generator.random(), period_s=period_s, lead_s=lead_s, cost_s=cost_s)
        for number, lead_s in enumerate(leads_s)
    ]


def simulate(
    streams: Sequence[Speaker],
    policy: Policy,
    *,
    duration_s: float,
    seed: int,
    draw: Callable[[float, random.Random], float] = spread,
) -> None:
    """Let one device serve the streams; their `arrivals_s` say when each chunk was done."""
    now, generator = 0.0, random.Random(seed)
    scheduler = Scheduler(lambda: now, policy=policy, max_load=float("inf"))
    by_name = {stream.name: stream for stream in streams}
    for stream in streams:
        scheduler.open(stream.name, period_s=stream.period_s, cost_s=stream.cost_s)
    while now < duration_s:
        next_s = duration_s
        for stream in streams:
            chunk = len(stream.arrivals_s)
            heard_s = stream.open_s + chunk * stream.period_s
            known = scheduler.streams[stream.name]
            if known.ready_s is None and heard_s <= now:
                scheduler.ready(stream.name, deadline_s=stream.deadline_s(chunk))
                known.ready_s = heard_s
            elif known.ready_s is None:
                next_s = min(next_s, heard_s)
        chosen = scheduler.choose()
        if chosen is None:
            now = next_s
            continue
        took = draw(by_name[chosen.name].cost_s, generator)
        now += took
        by_name[chosen.name].arrivals_s.append(now)
        scheduler.done(chosen.name, took_s=took)


def compare(
    policies: dict[str, Policy], *, counts: Sequence[int], duration_s: float, seed: int, cost_s: float, period_s: float
) -> list[dict[str, float | int | str]]:
    """One row for each number of streams and policy: how many chunks were in time, and stalls a minute and stream."""
    rows: list[dict[str, float | int | str]] = []
    for count in counts:
        for name, policy in policies.items():
            streams = speakers(count, seed=seed, cost_s=cost_s, period_s=period_s)
            load = sum(stream.cost_s / stream.period_s for stream in streams)
            simulate(streams, policy, duration_s=duration_s, seed=seed)
            shares = [stream.on_time(duration_s) for stream in streams]
            stalls = sum(stream.watched().num_stalls for stream in streams if stream.arrivals_s)
            stalls *= 60 / (count * duration_s)
            row = {"streams": count, "policy": name, "load": round(load, 3), "on_time": sum(shares) / count}
            rows.append({**row, "worst_on_time": min(shares), "stalls_per_minute": stalls})
    return rows
