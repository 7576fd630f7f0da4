"""A key that is pressed while a chunk is shown: the chunk is made again, as if the key had been known in time."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from serve.acts import Applied
from serve.artifact import load_artifact
from serve.engine import Engine
from serve.live.avatar.changes import Act, Change, ChangeRefusedError, Redo, Rewind
from serve.live.avatar.chunk_times import StreamTiming
from serve.live.avatar.performer import REDONE, Performer
from tests.serve.world import world

TIMING = StreamTiming(
    chunk_samples=4_000, lookahead_samples=0, frame_samples=1_000, sample_rate=24_000, lead_samples=5_000
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world(tmp_path_factory.mktemp("world"))


def begun(folder: Path, *, undo_chunks: int = 2) -> Engine:
    engine = Engine(load_artifact(folder), seed=5, undo_chunks=undo_chunks)
    engine.start(np.full((*engine.size, 3), 90, np.uint8))
    return engine


def test_a_chunk_made_again_is_the_chunk_of_who_knew(folder: Path):
    """Forward is held, and left is pressed at the third frame of the second chunk; also of all chunks that follow."""
    engine, knew = begun(folder), begun(folder)
    for one in (engine, knew):
        one.act({"forward": 1})
        one.step()
    knew.act({"left": [0, 0, 1]})
    expected = [knew.step() for _ in range(3)]
    assert not np.array_equal(engine.step(), expected[0])
    applied, frames = engine.redo({"left": 1}, frame=2)
    assert applied == Applied(1, (4 + 2) / 24)
    assert np.array_equal(frames, expected[0])
    assert all(np.array_equal(engine.step(), after) for after in expected[1:])


def test_two_keys_within_a_chunk_are_both_held(folder: Path):
    engine, knew = begun(folder), begun(folder)
    knew.act({"left": [0, 1, 1, 1], "forward": [0, 0, 0, 1]})
    engine.step()
    engine.redo({"left": 1}, frame=1)
    _, frames = engine.redo({"forward": 1}, frame=3)
    assert np.array_equal(frames, knew.step())


def test_what_cannot_be_made_again_changes_nothing(folder: Path):
    engine, straight = begun(folder), begun(folder)
    with pytest.raises(ValueError, match=r"chunks=1 must be in \[0, 0\]"):
        engine.redo({"left": 1}, frame=0)
    for one in (engine, straight):
        one.step()
    with pytest.raises(ValueError, match="fly=1 must be one of"):
        engine.redo({"fly": 1}, frame=0)
    assert np.array_equal(engine.step(), straight.step())


class Numbered:
    """A face whose pixels count its chunks in tens, and how often the chunk was made again in ones."""

    def __init__(self) -> None:
        self.calls, self.made, self.again = list[Change](), 0, 0

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def step(self, agent: np.ndarray, user: np.ndarray, *, within_s: float = 0.0) -> np.ndarray:
        self.made, self.again = self.made + 1, 0
        return self._frames()

    async def change(self, change: Change) -> Applied:
        self.calls.append(change)
        return Applied(self.made, 0.0)

    async def redo(self, change: Redo) -> tuple[Applied, np.ndarray]:
        if "fly" in change.action:
            raise ChangeRefusedError("fly.")
        self.calls.append(change)
        self.again += 1
        return Applied(self.made - 1, 0.0), self._frames()

    def _frames(self) -> np.ndarray:
        return np.full((4, 2, 2, 3), 10 * self.made + self.again, np.uint8)


def test_keys_hold_from_the_next_frame_that_is_shown():
    """Two frames of the first chunk are shown, then a key changes the other two; more keys than a hand has, and steps
    back, leave what is shown as it is."""
    face, seen = Numbered(), list[int]()
    performer = Performer(face, TIMING)
    performer.redoes = True

    async def play(frames: int) -> None:
        for _ in range(frames):
            await asyncio.sleep(0.01)  # the next chunk is made meanwhile, where there is room
            seen.extend(int(pixels[0, 0, 0]) for _, pixels in performer.playout.advance(1_000).frames)

    async def script() -> None:
        running = asyncio.create_task(performer.run())
        await play(2)
        await performer.change(Act({"left": 1}))
        await play(2)  # and with the last frame of the first chunk the second one is made
        for _ in range(REDONE + 1):
            await performer.change(Act({"left": 0}))
        await performer.change(Rewind(1))
        await performer.change(Act({"fly": 1}))
        await play(4)
        running.cancel()

    asyncio.run(script())
    assert seen == [10, 10, 11, 11, 22, 22, 22, 22]
    frames = [call.frame for call in face.calls if isinstance(call, Redo)]
    assert frames == [2, *[0] * REDONE]
    assert face.calls[1 + REDONE :] == [Act({"left": 0}), Rewind(1), Act({"fly": 1})]


def test_after_a_step_back_no_chunk_is_made_again():
    """The chunk that is shown is no longer the stream's latest: made again, an older one would take its place."""
    face = Numbered()
    performer = Performer(face, TIMING)
    performer.redoes = True

    async def script() -> None:
        running = asyncio.create_task(performer.run())
        await asyncio.sleep(0.01)
        await performer.change(Rewind(1))
        await performer.change(Act({"left": 1}))
        running.cancel()

    asyncio.run(script())
    assert face.calls == [Rewind(1), Act({"left": 1})]
