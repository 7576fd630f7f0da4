"""What Prometheus reads at /metrics. One registry per server, so that two servers in one process do not mix."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

STEP_MS = (10, 20, 30, 40, 60, 80, 100, 130, 167, 250, 500)
TURN_MS = (500, 750, 1000, 1250, 1500, 1750, 2000, 2500, 3000, 5000)


class Gauges:
    """Counts and times over all sessions."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sessions = Gauge("gwm_sessions", "Sessions that are open", registry=self.registry)
        self.capacity = Gauge("gwm_capacity", "Sessions that this machine can hold", registry=self.registry)
        self.delay_ms = Gauge("gwm_delay_ms", "From speech to its sound and picture", registry=self.registry)
        self.refused = Counter("gwm_refused", "Requests turned away", ["reason"], registry=self.registry)
        self.step_ms = Histogram("gwm_step_ms", "Time of a chunk", buckets=STEP_MS, registry=self.registry)
        self.turn_ms = Histogram(
            "gwm_turn_ms", "End of speech to the first frame of the answer", buckets=TURN_MS, registry=self.registry
        )
        self.stalls = Counter("gwm_stalls", "Times that sound and picture ran dry", registry=self.registry)
        self.losses = Counter("gwm_engine_losses", "Times that a session lost its engine", registry=self.registry)
        self.interruptions = Counter("gwm_interruptions", "Answers cut short", registry=self.registry)
