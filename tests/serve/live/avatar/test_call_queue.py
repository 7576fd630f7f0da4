"""Sessions that share an engine process, on a turned clock: who is in time, and what one may cost the others."""

import asyncio
import contextlib
from typing import Any

import numpy as np
import pytest

from serve.acts import Applied
from serve.bench import turned_clock
from serve.bench.sessions import CHUNK_S, FRAMES, Viewer
from serve.live.avatar.call_queue import WAITING_CHANGES, CallQueue
from serve.live.avatar.changes import Change, ChangeRefusedError
from serve.scheduler import POLICIES

CHANGE_S = 0.02


class QueuedFace:
    """One session's face behind a queue."""

    def __init__(self, queue: CallQueue, session: str) -> None:
        self.queue, self.session = queue, session

    async def start(self) -> None:
        await self.queue.call(self.session, "start", self.session)

    async def step(self, agent: Any, user: Any, *, within_s: float = 0.0) -> np.ndarray:
        return await self.queue.call(self.session, "step", self.session, within_s=within_s)

    async def stop(self) -> None: ...

    async def change(self, change: Change) -> Applied:
        return await self.queue.call(self.session, "change", self.session)


def watched(policy: str, costs: dict[str, float], *, floods: str | None = None, seconds: float = 10.0) -> list[float]:
    """Shares of chunks in time, of each session, where a chunk of a session takes so long.

    floods: a session that asks for 50 changes a second.
    """

    async def send(name: str, arguments: tuple[Any, ...]) -> Any:
        await asyncio.sleep(costs[arguments[0]] if name == "step" else CHANGE_S)
        return FRAMES

    async def flood(queue: CallQueue, session: str) -> None:
        async def change() -> None:
            with contextlib.suppress(ChangeRefusedError):
                await queue.call(session, "change", session)

        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(change())
                await asyncio.sleep(0.02)

    async def run() -> list[float]:
        queue = CallQueue(send, policy=POLICIES[policy])
        queue.measured(period_s=CHUNK_S, cost_s=min(costs.values()))
        viewers = {session: Viewer(QueuedFace(queue, session)) for session in costs}
        flooding = asyncio.create_task(flood(queue, floods)) if floods else None
        watching = [
            asyncio.create_task(viewer.watch(seconds, after_s=0.37 * number))
            for number, (session, viewer) in enumerate(viewers.items())
            if session != floods
        ]
        await asyncio.wait(watching, timeout=2 * seconds)
        if flooding:
            flooding.cancel()
        return [viewer.in_time for session, viewer in viewers.items() if session != floods]

    return turned_clock.run(run())


@pytest.mark.parametrize("count", range(1, 9))
def test_up_to_eight_sessions_are_in_time(count: int):
    costs = {str(number): 0.018 for number in range(count)}  # of eight: 0.86 of the time
    assert watched("least_slack", costs) == [1.0] * count


@pytest.mark.parametrize("count", [7, 8])
def test_under_overload_least_slack_keeps_most_in_time_and_the_others_nobody(count: int):
    costs = {str(number): 0.025 for number in range(count)}  # 1.05 and 1.2 of the time
    shares = {policy: np.mean(watched(policy, costs)) for policy in POLICIES}
    assert shares["least_slack"] > 0.8 and shares["least_slack"] > 1.2 * max(
        shares["first_come"], shares["round_robin"]
    )


def test_a_slow_session_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch):
    """With its chunks there is more to do than time for it."""
    costs = {"slow": 0.07, **{str(number): 0.018 for number in range(6)}}
    slow, *others = watched("least_slack", costs)
    assert others == [1.0] * 6 and slow < 0.5
    monkeypatch.setattr("serve.live.avatar.call_queue.SLOW", 1e9)
    assert np.mean(watched("least_slack", costs)[1:]) < 0.97


def test_a_hostile_session_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch):
    """It asks for as many changes as fill the engine."""
    costs = {"hostile": 0.018, **{str(number): 0.018 for number in range(6)}}
    assert watched("least_slack", costs, floods="hostile") == [1.0] * 6
    monkeypatch.setattr("serve.live.avatar.call_queue.CHANGE_SHARE", 1e9)
    assert np.mean(watched("least_slack", costs, floods="hostile")) < 0.9


def test_a_flood_of_changes_does_not_delay_the_chunks_of_its_own_session():
    async def run() -> list[str]:
        sent = []

        async def send(name: str, arguments: tuple[Any, ...]) -> None:
            sent.append(name)
            await asyncio.sleep(0.05)

        queue = CallQueue(send)
        changes = [asyncio.create_task(queue.call("a", "change")) for _ in range(9)]
        await asyncio.sleep(0.12)
        await queue.call("a", "step", within_s=0.2)
        await asyncio.gather(*changes)
        return sent

    assert turned_clock.run(run()).index("step") == 3


def test_a_chunk_takes_the_place_of_a_change_of_its_session_that_waits_for_an_idle_moment():
    """Another session's chunk, which is wanted much later, does not come first."""

    async def run() -> list[str]:
        sent = []

        async def send(name: str, arguments: tuple[Any, ...]) -> None:
            sent.append(f"{name} of {arguments[0]}")
            await asyncio.sleep(0.05)

        queue = CallQueue(send)
        await queue.call("a", "change", "a")  # its share is used up
        async with asyncio.TaskGroup() as group:
            for session, name, within_s in (("b", "step", 9.0), ("a", "change", None), ("a", "step", 0.2)):
                group.create_task(queue.call(session, name, session, within_s=within_s))
                await asyncio.sleep(0)
            group.create_task(queue.call("c", "step", "c", within_s=9.0))
        return sent[1:]

    assert turned_clock.run(run()) == ["step of b", "step of a", "step of c", "change of a"]


def test_a_session_is_answered_in_its_order_and_one_that_left_holds_nobody_up():
    async def run() -> list[str]:
        sent = []

        async def send(name: str, arguments: tuple[Any, ...]) -> None:
            sent.append(name)
            await asyncio.sleep(0.1)

        queue = CallQueue(send)
        calls = [asyncio.create_task(queue.call("a", name)) for name in ("one", "two", "three")]
        other = asyncio.create_task(queue.call("b", "step", within_s=0.0))
        await asyncio.sleep(0.05)
        calls[1].cancel()
        gone = asyncio.create_task(queue.call("c", "never"))
        await asyncio.sleep(0)
        queue.close("c")
        await asyncio.gather(calls[0], calls[2], other)
        assert gone.cancelled() and calls[1].cancelled()
        return sent

    sent = turned_clock.run(run())
    assert [name for name in sent if name != "step"] == ["one", "three"] and "step" in sent


def test_an_error_is_the_callers_and_the_next_call_is_sent():
    async def run() -> None:
        async def send(name: str, arguments: tuple[Any, ...]) -> str:
            await asyncio.sleep(0.1)
            if name == "bad":
                raise KeyError(name)
            return "fine"

        queue = CallQueue(send)
        bad, good = asyncio.create_task(queue.call("a", "bad")), asyncio.create_task(queue.call("b", "good"))
        with pytest.raises(KeyError, match="bad"):
            await bad
        assert await good == "fine"

    turned_clock.run(run())


def test_too_many_changes_of_a_session_are_refused_and_its_chunks_are_not():
    async def run() -> None:
        async def send(name: str, arguments: tuple[Any, ...]) -> str:
            await asyncio.sleep(0.05)
            return name

        queue = CallQueue(send)
        changes = [asyncio.create_task(queue.call("a", "change")) for _ in range(WAITING_CHANGES + 1)]
        await asyncio.sleep(0.01)  # one is sent, the others wait
        with pytest.raises(ChangeRefusedError, match=f"{WAITING_CHANGES} changes wait"):
            await queue.call("a", "change")
        assert await queue.call("a", "step", within_s=0.2) == "step"
        assert await asyncio.gather(*changes) == ["change"] * len(changes)

    turned_clock.run(run())


def test_a_chunk_says_how_long_it_has_waited_for_other_sessions():
    async def run() -> list[float]:
        waits = []

        async def send(name: str, arguments: tuple[Any, ...]) -> None:
            await asyncio.sleep(0.05)

        queue = CallQueue(send, on_wait=waits.append)
        await asyncio.gather(*(queue.call(session, "step", within_s=1.0) for session in "ab"))
        return waits

    assert turned_clock.run(run()) == pytest.approx([0.0, 50.0])


async def at_once(name: str, arguments: tuple[Any, ...]) -> str:
    return name


def test_a_chunk_that_takes_no_time_is_counted(caplog: pytest.LogCaptureFixture):
    async def run() -> None:
        queue = CallQueue(at_once)
        for _ in range(3):
            assert await queue.call("a", "step", within_s=1.0) == "step"

    turned_clock.run(run())
    assert "could not be counted" not in caplog.text


def test_a_call_that_cannot_be_counted_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch, caplog):
    """Neither its own session nor others, whose calls came meanwhile."""

    async def run() -> list[str]:
        queue = CallQueue(at_once)
        queue.measured(period_s=CHUNK_S, cost_s=CHANGE_S)

        def fail(session: str, *, took_s: float) -> None:
            monkeypatch.undo()
            raise OverflowError("too long ago")

        monkeypatch.setattr(queue.scheduler, "done", fail)
        calls = [queue.call(session, "step", within_s=1.0) for session in ("a", "a", "b")]
        async with asyncio.timeout(10):
            return await asyncio.gather(*calls)

    assert turned_clock.run(run()) == ["step"] * 3
    assert "could not be counted" in caplog.text


def test_a_call_whose_caller_has_left_before_it_is_sent_is_not_sent():
    """It was chosen already, as nothing else was to do."""

    async def run() -> list[str]:
        sent = []

        async def send(name: str, arguments: tuple[Any, ...]) -> None:
            sent.append(name)

        queue = CallQueue(send)
        left = asyncio.create_task(queue.call("a", "step", within_s=1.0))
        await asyncio.sleep(0)
        left.cancel()
        await queue.call("a", "change")
        assert left.cancelled()
        return sent

    assert turned_clock.run(run()) == ["change"]


@pytest.mark.parametrize("fails", [False, True], ids=["answered", "failed"])
@pytest.mark.parametrize("closes", [False, True], ids=["caller", "session"])
def test_what_comes_for_whoever_has_left_meanwhile_is_forgotten(
    closes: bool, fails: bool, caplog: pytest.LogCaptureFixture
):
    async def run() -> str:
        async def send(name: str, arguments: tuple[Any, ...]) -> str:
            await asyncio.sleep(0.1)
            if name == "step" and fails:
                raise KeyError(name)
            return name

        queue = CallQueue(send)
        left = asyncio.create_task(queue.call("a", "step", within_s=1.0))
        await asyncio.sleep(0.05)
        left.cancel()
        if closes:
            queue.close("a")
        return await queue.call("b", "change")

    assert turned_clock.run(run()) == "change"
    assert "could not be counted" not in caplog.text


def test_the_end_of_the_loop_is_no_error_and_sends_nothing_more(caplog: pytest.LogCaptureFixture):
    wrong = list[Any]()

    async def run() -> list[str]:
        asyncio.get_running_loop().set_exception_handler(lambda loop, found: wrong.append(found))
        sent = []

        async def send(name: str, arguments: tuple[Any, ...]) -> None:
            sent.append(name)
            await asyncio.sleep(9.0)

        queue = CallQueue(send)
        calls = [asyncio.create_task(queue.call(session, session)) for session in "ab"]
        await asyncio.sleep(0.05)
        assert queue._sending is not None
        queue._sending.cancel()
        await asyncio.sleep(0.05)
        for call in calls:
            call.cancel()
        return sent

    assert turned_clock.run(run()) == ["a"] and not wrong and not caplog.text


def test_changes_whose_callers_have_left_do_not_count_as_waiting():
    async def run() -> str:
        async def send(name: str, arguments: tuple[Any, ...]) -> str:
            await asyncio.sleep(0.1)
            return name

        queue = CallQueue(send)
        left = [asyncio.create_task(queue.call("a", "change")) for _ in range(WAITING_CHANGES)]
        await asyncio.sleep(0.01)
        for task in left:
            task.cancel()
        chunk = asyncio.create_task(queue.call("a", "step", within_s=1.0))
        await asyncio.sleep(0.01)
        answer = await queue.call("a", "change")
        assert await chunk == "step"
        return answer

    assert turned_clock.run(run()) == "change"
