import asyncio

import pytest

from serve.live.characters import Character
from serve.live.gauges import Gauges
from serve.live.lobby import Lobby, Rate, measured_capacity
from serve.live.refusals import FullError, NotHereError


class Guest:
    """A session that only comes and goes."""

    def __init__(self, on_end) -> None:
        self.on_end, self.reason = on_end, ""

    def start(self) -> None: ...

    async def close(self, reason: str) -> None:
        self.reason = reason
        self.on_end()


def lobby(capacity: int = 2) -> Lobby:
    make = lambda session_id, character, on_end: Guest(on_end)  # noqa: E731
    return Lobby(make, capacity=capacity, retry_after_s=30, gauges=Gauges())


@pytest.fixture
def who(portrait) -> Character:
    return Character("noa", "Noa", portrait, "Be kind.")


@pytest.mark.parametrize(("step_ms", "capacity"), [(38.0, 2), (100.0, 1), (101.0, 1), (400.0, 1), (9.9, 10)])
def test_capacity_is_what_fits_into_a_chunk(step_ms: float, capacity: int):
    assert measured_capacity(step_ms, 1000 / 6) == capacity


def test_beyond_capacity_is_refused_until_somebody_leaves(who: Character, unchecked: None):
    rooms = lobby()
    first, second = rooms.open(who), rooms.open(who)
    assert first is not second
    with pytest.raises(FullError, match="All 2 places are taken") as error:
        rooms.open(who)
    assert error.value.retry_after_s == 30
    asyncio.run(first.close("left"))
    rooms.open(who)


def test_drain_lets_nobody_in_and_ends_whoever_stays(who: Character, unchecked: None):
    rooms = lobby()
    guest = rooms.open(who)
    asyncio.run(rooms.drain(patience_s=0.2))
    assert guest.reason == "The server restarts." and not rooms.sessions
    with pytest.raises(FullError, match="about to restart"):
        rooms.open(who)


def test_an_unknown_session_is_not_here():
    with pytest.raises(NotHereError, match="over"):
        lobby().get("../../etc/passwd")


def test_rate_counts_each_visitor_alone_and_forgets_the_oldest():
    rate = Rate(2, 60.0)
    for visitor in ("a", "a", "b"):
        rate.check(visitor)
    with pytest.raises(FullError, match="Too many requests"):
        rate.check("a")
    for number in range(2_000):
        rate.check(str(number))
    assert len(rate._times) <= 1_001
