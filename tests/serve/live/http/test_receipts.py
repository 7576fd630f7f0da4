"""Every change is answered, over the websocket and over the data channel."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from serve.acts import Applied
from serve.live.avatar.changes import Act, Change, Rewind, SetPrompt
from serve.live.avatar.performer import Performer
from serve.live.http.receipts import CHANGES, Changes
from tests.serve.live.http.test_conversation import talked, until
from tests.serve.live.http.test_renderer_session import Watcher, rendered
from tests.serve.live.level_face import LevelFace
from tests.serve.live.server_kit import Browser, Kit, opened

ASKED: list[dict[str, Any]] = [
    {"type": "prompt.set", "text": "a storm", "id": "p1"},
    {"type": "action.set", "action": {"left": 0.5}, "id": 7},
    {"type": "stream.rewind", "chunks": 2},
    {"type": "stream.rewind", "chunks": 4},
    {"type": "stream.rewind", "chunks": "all"},
]
DONE = [SetPrompt("a storm"), Act({"left": 0.5}), Rewind(2)]


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[Change]:
    """What comes by way of a performer, which must know when its engine is no longer at what is shown."""
    found, change = list[Change](), Performer.change

    async def note(performer: Performer, wanted: Change) -> Applied:
        found.append(wanted)
        return await change(performer, wanted)

    monkeypatch.setattr(Performer, "change", note)
    return found


def answered(receipts: list[dict[str, Any]]) -> None:
    """Checks that each message of `ASKED` has its receipt."""
    kinds = {(one["of"], one.get("id"), one["accepted"]): one for one in receipts if one["type"] == "receipt"}
    assert kinds["prompt.set", "p1", True]["chunk"] >= 0 and kinds["action.set", 7, True]["chunk"] >= 0
    rewound, refused = kinds["stream.rewind", None, True], kinds["stream.rewind", None, False]
    assert rewound["media_s"] == round(rewound["chunk"] / 6, 3)
    assert refused["reason"] in ("chunks must be at most 3.", "chunks='all' must be a whole number of at least 1.")


def test_changes_over_the_websocket_reach_the_face_and_are_answered(passed: list[Change]):
    async def script(kit: Kit, watcher: Watcher) -> None:
        await watcher.watch(6)
        for message in ASKED:
            await watcher.socket.send_json(message)
        while sum(one["type"] == "receipt" for one in watcher.messages) < len(ASKED):
            await watcher.watch(1)

    kit, watcher = rendered(script)
    answered(watcher.messages)
    assert kit.faces[0].changes == DONE and passed == [*DONE, Rewind(4)]


def test_changes_over_the_data_channel_reach_the_face_and_are_answered(passed: list[Change]):
    async def script(kit: Kit, client: TestClient) -> None:
        async with Browser() as browser:
            await browser.connect(client, await opened(client))
            await until(lambda: browser.pictures and browser.events)
            for message in ASKED:
                browser.channel.send(json.dumps(message))
            receipts = lambda: [e for e in map(json.loads, browser.events) if e["type"] == "receipt"]  # noqa: E731
            await until(lambda: len(receipts()) == len(ASKED))
            answered(receipts())
            assert kit.faces[0].changes == DONE and passed == [*DONE, Rewind(4)]

    talked(script)


def test_changes_come_at_a_bounded_rate_and_a_lost_engine_is_told():
    async def run() -> None:
        face, sent = LevelFace(), list[dict[str, Any]]()
        tasks: list[asyncio.Task[None]] = []
        changes = Changes(face, send=sent.append, spawn=lambda work: tasks.append(asyncio.create_task(work)))
        assert not changes.handle({"type": "agent.speak"})
        for _ in range(CHANGES + 1):
            assert changes.handle({"type": "action.set", "action": None})
        await asyncio.gather(*tasks)
        assert len(face.changes) == CHANGES
        assert [one["reason"] for one in sent if not one["accepted"]] == ["Too many requests. Try again in 2 s."]
        face.lost = True
        changes = Changes(face, send=sent.append, spawn=lambda work: tasks.append(asyncio.create_task(work)))
        changes.handle({"type": "stream.rewind", "chunks": 1})
        await asyncio.gather(*tasks)
        assert sent[-1] == {"type": "receipt", "of": "stream.rewind", "accepted": False, "reason": "gone."}

    asyncio.run(run())
