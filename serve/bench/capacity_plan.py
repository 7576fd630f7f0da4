"""What a number of sessions at a time needs: devices, network, store. Arithmetic on measured numbers."""

import math
from dataclasses import dataclass

from gwm.clock import FPS
from gwm.resolution import Resolution
from serve.bench.fleet_simulation import Machine
from serve.live.http.tracks import PACKET_S, video_bits_per_s
from serve.runway_api.background import LIFE_S

VOICE_BITS_PER_S = 96_000  # aiortc's Opus encoder
PACKET_BYTES = 1_200  # of video, at most
HEADER_BYTES = 20 + 8 + 12 + 10  # of each packet: IPv4, UDP, RTP, SRTP's signature
SESSION_WRITES = 5  # created, ready, consumed, connected, ended
SIGN_OF_LIFE_WRITES = 2  # of a server, every `LIFE_S`
SOON_S = 10.0  # within which 95 of 100 shall be let in
STORE_LOAD = 0.5  # of the transactions that a store can do


def egress_bits_per_s(frame: Resolution) -> float:
    """That one session sends, at most: its picture and sound, in packets."""
    video, voice = video_bits_per_s(frame), VOICE_BITS_PER_S
    packets = max(FPS, video / (8 * PACKET_BYTES)) + 1 / PACKET_S
    return video + voice + 8 * HEADER_BYTES * packets


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What runs engines: a processor or a graphics card.

    Raises:
        ValueError: as `Machine`.
    """

    cores: int  # of a processor; of a graphics card's host as many as its sessions' voices and encoders need
    period_s: float
    chunk_s: float
    max_load: float

    def __post_init__(self) -> None:
        Machine(devices=1, period_s=self.period_s, chunk_s=self.chunk_s, max_load=self.max_load)

    @property
    def places(self) -> int:
        """Sessions at a time: chunks take at most `max_load` of its time."""
        return math.floor(self.max_load * self.period_s / self.chunk_s + 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """How sessions are used."""

    mean_s: float
    captions_per_s: float  # of both sides of one session; each is written
    turn_share: float  # of sessions, relayed as no direct way is open


@dataclass(frozen=True, slots=True)
class Point:
    """One simulated load of a fleet."""

    places: int
    load: float
    wait_s_p95: float
    turned_away: float  # share of those who asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    sessions: int
    load: float  # of the places
    places: int
    devices: int
    cores: int
    egress_mbit_s: float
    turn_mbit_s: float  # in each direction
    starts_per_s: float
    writes_per_s: float
    stores: int


def highest_load(points: list[Point], sessions: int) -> float:
    """At which people are let in soon, in the simulated fleet that is the next larger, or in the largest.

    Raises:
        ValueError: at every load that was simulated they wait longer.
    """
    sizes = sorted({point.places for point in points})
    size = next((size for size in sizes if size >= sessions), sizes[-1])
    loads = [point.load for point in points if point.places == size and point.wait_s_p95 <= SOON_S]
    if not loads:
        raise ValueError(
            f"loads must begin lower: with {size} places 95 of 100 are let in within {SOON_S:g} s at none."
        )
    return max(loads)


def plan(
    sessions: int, points: list[Point], *, device: Device, frame: Resolution, use: Use, store_writes_per_s: float
) -> Plan:
    """For so many sessions at a time, on the average of the busiest hour."""
    load = highest_load(points, sessions)
    places = math.ceil(sessions / load)
    devices = math.ceil(places / device.places)
    egress, starts = sessions * egress_bits_per_s(frame), sessions / use.mean_s
    writes = starts * SESSION_WRITES + sessions * use.captions_per_s + devices * SIGN_OF_LIFE_WRITES / LIFE_S
    return Plan(
        sessions=sessions,
        load=load,
        places=places,
        devices=devices,
        cores=devices * device.cores,
        egress_mbit_s=egress / 1e6,
        turn_mbit_s=use.turn_share * egress / 1e6,
        starts_per_s=starts,
        writes_per_s=writes,
        stores=math.ceil(writes / (STORE_LOAD * store_writes_per_s)),
    )
