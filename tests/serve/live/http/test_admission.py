import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from serve.bench import turned_clock
from serve.live.characters import Character
from serve.live.gauges import Gauges
from serve.live.http.admission import EVICTED_AFTER_S, Admission, Rate
from serve.live.http.refusals import FullError, NotHereError
from serve.live.http.session import Session, SessionParts, Timeouts
from tests.serve.live.level_face import TIMING, LevelFace


class Visit(Session):
    """A session that only comes and goes."""

    def __init__(self, session_id: str, on_end: Callable[[], None]) -> None:
        character = Character("noa", "Noa", np.zeros((4, 4, 3), np.uint8), "")
        timeouts = Timeouts(connect_s=60.0, reconnect_s=60.0, session_s=60.0)
        super().__init__(
            SessionParts(
                id=session_id,
                character=character,
                face=LevelFace(),
                timing=TIMING,
                timeouts=timeouts,
                gauges=Gauges(),
                on_end=on_end,
            )
        )
        self.reason = ""

    def start(self) -> None: ...

    def _report(self) -> None: ...

    def _announce_end(self, reason: str) -> None:
        self.reason = reason

    async def _disconnect(self) -> None: ...


def admission(capacity: int = 2) -> Admission:
    return Admission(capacity=lambda: capacity, retry_after_s=30, gauges=Gauges())


def test_beyond_capacity_is_refused_until_somebody_leaves():
    places = admission()
    first, second = places.open(Visit, "a"), places.open(Visit, "b")
    assert first is not second
    with pytest.raises(FullError, match="All 2 places are taken") as error:
        places.open(Visit, "c")
    assert (error.value.reason, error.value.retry_after_s) == ("full", 30)
    asyncio.run(first.close("left"))
    places.open(Visit, "c")


def test_a_visitor_has_at_most_two_places_that_wait_for_a_connection():
    places = admission(capacity=9)
    first, _ = places.open(Visit, "a"), places.open(Visit, "a")
    with pytest.raises(FullError, match="2 of your sessions wait"):
        places.open(Visit, "a")
    places.open(Visit, "b")
    first.connected()
    places.open(Visit, "a")


def test_a_place_that_nobody_has_connected_to_is_given_to_the_next_when_all_are_taken():
    async def run() -> None:
        places = admission()
        connected, waiting = places.open(Visit, "a"), places.open(Visit, "b")
        connected.connected()
        for session in (connected, waiting):
            session.begin_s -= EVICTED_AFTER_S + 1
        third = places.open(Visit, "c")
        assert set(places.sessions.values()) == {connected, third}
        await places.drain(within_s=0)
        assert waiting.reason.startswith("Nobody connected") and waiting.face.stops == 1

    asyncio.run(run())


def test_drain_lets_nobody_in_and_ends_whoever_stays():
    places = admission()
    session = places.open(Visit, "a")
    asyncio.run(places.drain(within_s=0.2))
    assert session.reason == "The server restarts." and not places.sessions
    with pytest.raises(FullError, match="about to restart") as error:
        places.open(Visit, "b")
    assert error.value.reason == "draining"


def test_a_session_whose_connection_cannot_be_closed_frees_its_engine_and_its_place():
    class Stuck(Visit):
        async def _disconnect(self) -> None:
            raise RuntimeError("the peer is stuck")

    places = admission()
    session = places.open(Stuck, "a")
    with pytest.raises(RuntimeError, match="stuck"):
        asyncio.run(session.close("left"))
    assert isinstance(session.face, LevelFace) and session.face.stops == 1 and not places.sessions


def test_a_session_whose_engine_cannot_be_stopped_frees_its_place():
    class Stuck(LevelFace):
        async def stop(self) -> None:
            raise RuntimeError("the engine is stuck")

    places = admission()
    session = places.open(Visit, "a")
    session.face = Stuck()
    with pytest.raises(RuntimeError, match="stuck"):
        asyncio.run(session.close("left"))
    assert not places.sessions


def test_an_unknown_session_is_not_here():
    with pytest.raises(NotHereError, match="over"):
        admission().get("../../etc/passwd", Visit)


def test_rate_counts_each_visitor_alone_and_forgets_the_oldest():
    rate = Rate(2, 60.0)
    for visitor in ("a", "a", "b"):
        rate.check(visitor)
    with pytest.raises(FullError, match="Too many requests"):
        rate.check("a")
    for number in range(2_000):
        rate.check(str(number))
    assert len(rate._times) <= 1_001


def test_a_session_ends_whole_when_whoever_closes_it_goes_away():
    """A browser that leaves takes its last request with it."""

    async def run() -> None:
        left = []

        class Slow(Visit):
            async def _end(self, reason: str) -> None:
                await asyncio.sleep(0.05)
                await super()._end(reason)

        session = Slow("a", lambda: left.append(True))
        asking = asyncio.create_task(session.close("left"))
        await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.sleep(0.1)
        assert left == [True]
        await session.close("again")
        assert left == [True]

    turned_clock.run(run())
