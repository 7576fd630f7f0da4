"""The part of configs/fleet.yaml that a single server does not have."""

from dataclasses import dataclass

from serve.live.options import at_least

OWNER = "gateway"  # of sessions that wait and that no gateway has: the next one that looks goes on with them


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """How a fleet is laid out.

    Raises:
        ValueError: a number that cannot be.
    """

    address: str | None  # of a Ray cluster; None: one on this machine
    workers: int  # replicas, one a device
    max_workers: int | None  # that autoscaling may add up to; None: it does not
    workers_per_node: int
    gateways: int  # each on a node of its own; one: on the head
    places: int  # sessions of a worker at a time, as it was measured
    target: float | int  # sessions of a worker on the average, at which autoscaling adds another
    up_s: float | int  # that more were asked for, until it does
    down_s: float | int  # that fewer were needed, until one goes
    num_cpus: float | int  # of a node, for each worker
    num_gpus: float | int
    worker_host: str  # where workers listen
    worker_port: int  # 0: any that is free
    worker_url: str | None  # as clients reach one; {ip} and {port} are its own; None: {ip}:{port}
    drain_s: float | int  # that sessions have to end when their worker has to go

    def __post_init__(self) -> None:
        for name in ("workers", "workers_per_node", "gateways", "places"):
            at_least(f"fleet.{name}", getattr(self, name), 1)
        for name in ("up_s", "down_s", "drain_s"):
            at_least(f"fleet.{name}", getattr(self, name), 0)
        if self.max_workers is not None:
            at_least("fleet.max_workers", self.max_workers, self.workers)
        if not 0 < self.target <= self.places:
            raise ValueError(f"fleet.target={self.target} must be above 0 and at most fleet.places={self.places}.")
        if self.worker_url is not None and not self.worker_url.startswith(("http://", "https://")):
            raise ValueError(
                f"fleet.worker_url={self.worker_url!r} must be such as https://{{ip}}.example.org:{{port}}."
            )

    def url_of(self, scheme: str, ip: str, port: int) -> str:
        """As clients reach a worker."""
        return (self.worker_url or "{scheme}://{ip}:{port}").format(scheme=scheme, ip=ip, port=port)
