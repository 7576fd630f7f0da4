import asyncio
from collections.abc import Callable

import pytest

from serve.live.gauges import Gauges
from serve.live.guest import Guest
from serve.live.lobby import Lobby, Rate, measured_capacity
from serve.live.refusals import FullError, NotHereError
from tests.serve.live import turned_clock


class Visitor(Guest):
    """A session that only comes and goes."""

    def __init__(self, session_id: str, on_end: Callable[[], None]) -> None:
        super().__init__(session_id)
        self.on_end, self.reason = on_end, ""

    def start(self) -> None: ...

    async def _end(self, reason: str) -> None:
        self.reason = reason
        self.on_end()


def lobby(capacity: int = 2) -> Lobby:
    return Lobby(capacity=capacity, retry_after_s=30, gauges=Gauges())


@pytest.mark.parametrize(("step_ms", "capacity"), [(38.0, 2), (100.0, 1), (101.0, 1), (400.0, 1), (9.9, 10)])
def test_capacity_is_what_fits_into_a_chunk(step_ms: float, capacity: int):
    assert measured_capacity(step_ms, 1000 / 6) == capacity


def test_beyond_capacity_is_refused_until_somebody_leaves():
    rooms = lobby()
    first, second = rooms.open(Visitor), rooms.open(Visitor)
    assert first is not second
    with pytest.raises(FullError, match="All 2 places are taken") as error:
        rooms.open(Visitor)
    assert error.value.retry_after_s == 30
    asyncio.run(first.close("left"))
    rooms.open(Visitor)


def test_drain_lets_nobody_in_and_ends_whoever_stays():
    rooms = lobby()
    guest = rooms.open(Visitor)
    asyncio.run(rooms.drain(patience_s=0.2))
    assert guest.reason == "The server restarts." and not rooms.sessions
    with pytest.raises(FullError, match="about to restart"):
        rooms.open(Visitor)


def test_an_unknown_session_is_not_here():
    with pytest.raises(NotHereError, match="over"):
        lobby().get("../../etc/passwd", Visitor)


def test_rate_counts_each_visitor_alone_and_forgets_the_oldest():
    rate = Rate(2, 60.0)
    for visitor in ("a", "a", "b"):
        rate.check(visitor)
    with pytest.raises(FullError, match="Too many requests"):
        rate.check("a")
    for number in range(2_000):
        rate.check(str(number))
    assert len(rate._times) <= 1_001


def test_a_guest_ends_whole_when_whoever_closes_it_goes_away():
    """A browser that leaves takes its last request with it."""

    async def run() -> None:
        left = []

        class Slow(Visitor):
            async def _end(self, reason: str) -> None:
                await asyncio.sleep(0.05)
                await super()._end(reason)

        guest = Slow("a", lambda: left.append(True))
        asking = asyncio.create_task(guest.close("left"))
        await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.sleep(0.1)
        assert left == [True]
        await guest.close("again")
        assert left == [True]

    turned_clock.run(run())
