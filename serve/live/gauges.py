"""What Prometheus reads at /metrics. One registry per server, so that two servers in one process do not mix."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

STEP_MS = (10, 20, 30, 40, 60, 80, 100, 130, 167, 250, 500)
TURN_MS = (500, 750, 1000, 1250, 1500, 1750, 2000, 2500, 3000, 5000)
OUTCOMES = ("in_time", "late", "no_picture")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineNumbers:
    """One engine process, as operators see it."""

    device: str
    alive: bool
    restarts: int
    sessions: int  # that are placed there
    slots: int  # engines that are made
    load: float  # share of its time that is promised
    chunk_ms: float  # that a chunk takes, from one to the next


class Gauges:
    """Counts and times over all sessions; their meaning is in docs/operating.md."""

    def __init__(self) -> None:
        self.registry = made = CollectorRegistry()
        self.sessions = Gauge("gwm_sessions", "Sessions that are open", registry=made)
        self.capacity = Gauge("gwm_capacity", "Sessions that there is room for", registry=made)
        self.free = Gauge("gwm_free", "Places for whoever asks now", registry=made)
        self.queued = Gauge("gwm_queued", "Sessions of the REST API that wait for a place", registry=made)
        self.draining = Gauge("gwm_draining", "1 while nobody is let in, as the server is about to stop", registry=made)
        self.delay_ms = Gauge("gwm_delay_ms", "From speech to its sound and picture, at most", registry=made)
        self.refused = Counter("gwm_refused", "Requests turned away", ["reason"], registry=made)
        self.chunks = Counter("gwm_chunks", "Chunks that were to be shown", ["outcome"], registry=made)
        self.step_ms = Histogram("gwm_step_ms", "From asking for a chunk to it", buckets=STEP_MS, registry=made)
        self.wait_ms = Histogram("gwm_wait_ms", "Of it, waiting for other sessions", buckets=STEP_MS, registry=made)
        self.turn_ms = Histogram(
            "gwm_turn_ms", "End of speech to the first frame of the answer", buckets=TURN_MS, registry=made
        )
        self.turn_part_ms = Histogram(
            "gwm_turn_part_ms", "Parts of a turn-around", ["part"], buckets=(50, 100, 200, *TURN_MS), registry=made
        )
        self.stalls = Counter("gwm_stalls", "Times that sound and picture ran dry", registry=made)
        self.losses = Counter("gwm_engine_losses", "Times that a session lost its engine", registry=made)
        self.interruptions = Counter("gwm_interruptions", "Answers cut short", registry=made)
        for outcome in OUTCOMES:  # so that rates exist from the start
            self.chunks.labels(outcome)

    def count_chunk(self, outcome: str) -> None:
        """outcome: one of `OUTCOMES`."""
        self.chunks.labels(outcome).inc()

    def count_turn(self, parts_ms: Mapping[str, Any]) -> None:
        """parts_ms: total_ms, and its parts, each named such as stt_ms."""
        for name, ms in parts_ms.items():
            if name == "total_ms":
                self.turn_ms.observe(ms)
            elif name.endswith("_ms"):
                self.turn_part_ms.labels(name.removesuffix("_ms")).observe(ms)

    def watch(self, numbers: Callable[[], list[EngineNumbers]]) -> None:
        """Show numbers of the engine processes, as they are when somebody asks."""
        self.registry.register(_EngineCollector(numbers))


class _EngineCollector(Collector):
    """One line for each engine process and number."""

    def __init__(self, numbers: Callable[[], list[EngineNumbers]]) -> None:
        self.numbers = numbers

    def collect(self) -> Iterable[Metric]:
        up = GaugeMetricFamily("gwm_engine_up", "1 while the process runs", labels=["engine", "device"])
        slots = GaugeMetricFamily("gwm_engine_slots", "Engines that are made", labels=["engine", "device"])
        sessions = GaugeMetricFamily("gwm_engine_sessions", "Sessions placed there", labels=["engine", "device"])
        load = GaugeMetricFamily("gwm_engine_load", "Share of its time that is promised", labels=["engine", "device"])
        chunk_ms = GaugeMetricFamily("gwm_engine_chunk_ms", "That a chunk takes", labels=["engine", "device"])
        restarts = CounterMetricFamily("gwm_engine_restarts", "Times it was started anew", labels=["engine", "device"])
        for index, numbers in enumerate(self.numbers()):
            place = [str(index), numbers.device]
            up.add_metric(place, numbers.alive)
            slots.add_metric(place, numbers.slots)
            sessions.add_metric(place, numbers.sessions)
            load.add_metric(place, numbers.load)
            chunk_ms.add_metric(place, numbers.chunk_ms)
            restarts.add_metric(place, numbers.restarts)
        return up, slots, sessions, load, chunk_ms, restarts
