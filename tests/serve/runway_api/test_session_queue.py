import asyncio
from dataclasses import dataclass

from serve.runway_api.session_queue import MAX_WAITING, QUEUE_S, SessionQueue, max_waiting


@dataclass
class Asking:
    name: str
    created_ms: int = 0
    queued: bool = False


class Door:
    """Lets in as many as there are places."""

    def __init__(self, places: int, now_s: float = 0.0) -> None:
        self.places, self.let_in_names, self.given_up, self.told = places, [], [], 0
        self.queue = SessionQueue(self.let_in, give_up=self.give_up, tell=self.tell, now_ms=lambda: round(1000 * now_s))

    async def let_in(self, asking: Asking) -> bool:
        if len(self.let_in_names) == self.places:
            return False
        self.let_in_names.append(asking.name)
        return True

    async def give_up(self, asking: Asking) -> None:
        self.given_up.append(asking.name)

    async def tell(self) -> None:
        self.told += 1


def test_the_first_who_asked_are_let_in_and_those_behind_are_told_once():
    door, waiting = Door(2), [Asking(name) for name in "abcd"]
    asyncio.run(door.queue.go_on(waiting))
    assert (door.let_in_names, door.told) == (["a", "b"], 1)
    for asking in waiting:
        asking.queued = True
    asyncio.run(door.queue.go_on(waiting[2:]))
    assert (door.let_in_names, door.told) == (["a", "b"], 1)


def test_whoever_has_waited_too_long_is_given_up_and_the_next_is_let_in():
    door = Door(1, now_s=QUEUE_S + 1)
    asyncio.run(door.queue.go_on([Asking("old"), Asking("new", created_ms=5_000)]))
    assert (door.given_up, door.let_in_names) == (["old"], ["new"])


def test_as_many_may_wait_as_there_are_places_and_no_fewer_than_at_a_small_server():
    assert (max_waiting(2), max_waiting(10_000)) == (MAX_WAITING, 10_000)
