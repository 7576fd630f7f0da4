"""A live stream goes towards a picture that a client sends: over the websocket, the data channel, to the engine."""

import asyncio
import base64
import contextlib
import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient
from PIL import Image

from gwm.contract import Contract
from gwm.media.framing import Framing
from serve.acts import Applied
from serve.artifact import Artifact
from serve.engine import Engine
from serve.live.avatar import engines as module
from serve.live.avatar.changes import IMAGE_CHARS, KEY_CHARS, ChangeRefusedError, SetKeyframe, read_change
from serve.live.avatar.engine_process import EngineProcess
from serve.live.avatar.engines import EngineOptions, Engines
from serve.live.avatar.process_face import ProcessFace
from serve.live.http.uploads import UPLOAD_PIXELS, Uploads
from serve.samples import sample_path
from tests.serve.conftest import tiny_contract
from tests.serve.live.avatar.live_sound import CHUNK, LOOKAHEAD
from tests.serve.live.http.test_conversation import talked, until
from tests.serve.live.http.test_renderer_session import Watcher, rendered
from tests.serve.live.server_kit import Browser, Kit, opened
from tests.tiny import keyframed

SILENCE = np.zeros(CHUNK, np.float32)


@pytest.fixture
def contract() -> Contract:
    rules = tiny_contract(chunk_frames=1)
    return rules.replace(dit=keyframed(rules.dit))


@pytest.fixture
def picture(portrait: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(255 - portrait[::-1])


def data_url(pixels: np.ndarray | Image.Image, form: str = "PNG", kind: str = "image/png") -> str:
    buffer = io.BytesIO()
    (Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels).save(buffer, form)
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@pytest.mark.parametrize("overlap", ["off", "on"])
def test_a_keyframe_counts_from_the_next_chunk_and_is_what_an_engine_is_given(
    folder: Path, artifact: Artifact, portrait: np.ndarray, picture: np.ndarray, overlap: str
):
    engines = Engines(EngineOptions(artifact=str(folder), device="cpu", overlap=overlap))
    engines.start("a", portrait, 3)
    engine = Engine(artifact, seed=3)
    engine.start(portrait)
    engine.push_silence(CHUNK * 8 + LOOKAHEAD)
    ahead = np.zeros(CHUNK + LOOKAHEAD, np.float32)
    shown = [engines.step("a", ahead, SILENCE) for _ in range(2)]
    applied = engines.change("a", SetKeyframe("", 0.5, picture))
    assert isinstance(applied, Applied) and (applied.chunk, applied.media_s) == (5, pytest.approx(5 / 6))
    free = [engine.step() for _ in range(2)]
    engine.keyframe(picture, at_s=5 / 6)
    free += [engine.step() for _ in range(6)]
    shown += [engines.step("a", ahead, SILENCE) for _ in range(7 if overlap == "on" else 6)]
    seen = [part for part in shown if part is not None]
    assert np.array_equal(np.concatenate(seen)[: 8 * 4], np.concatenate(free))
    last = engines.change("a", SetKeyframe("", 600.0, picture))
    assert isinstance(last, Applied) and last.media_s == pytest.approx(600 + (9 if overlap == "on" else 8) / 6)


def test_only_so_many_pictures_lie_ahead_and_those_that_were_seen_are_forgotten(
    folder: Path, portrait: np.ndarray, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "MAX_KEYFRAMES", 2)
    engines = Engines(EngineOptions(artifact=str(folder), device="cpu"))
    engines.start("a", portrait, 3)
    for in_s in (0.0, 0.2):
        assert isinstance(engines.change("a", SetKeyframe("", in_s, picture)), Applied)
    assert engines.change("a", SetKeyframe("", 0.5, picture)) == (
        "2 keyframes lie ahead already. Wait until some of them were seen."
    )
    for _ in range(2):
        engines.step("a", np.zeros(CHUNK + LOOKAHEAD, np.float32), SILENCE)
    assert isinstance(engines.change("a", SetKeyframe("", 0.5, picture)), Applied)
    said = engines.change("a", SetKeyframe("", 0.5, picture))
    assert isinstance(said, str) and "must not be the time of another keyframe" in said


class Heard(EngineProcess):
    """Is told of changes, and runs nothing."""

    def __init__(self) -> None:
        self.changes: list[Any] = []

    async def call(self, name: str, session: str, *arguments: Any, within_s: float | None = None) -> Any:
        self.changes += arguments
        return Applied(4, 0.7)


def test_a_model_without_the_condition_refuses_before_the_picture_is_read():
    async def run() -> None:
        heard = Heard()
        face = ProcessFace(heard, "a", np.zeros((8, 8, 3), np.uint8), seed=0)
        with pytest.raises(ChangeRefusedError, match="keyframes must be left out: the model has no condition"):
            await face.change(SetKeyframe("data:image/png;base64,!", 1.0))
        assert heard.changes == []

    asyncio.run(run())


def test_a_message_is_read_within_its_limits():
    assert read_change({"type": "keyframe.set", "image": "key", "in_s": 2}) == SetKeyframe("key", 2.0)
    head = "data:image/png;base64,"
    most = head + "A" * (IMAGE_CHARS - len(head))
    assert read_change({"type": "keyframe.set", "image": most, "in_s": 0}) == SetKeyframe(most, 0.0)
    for image in (None, "", 3, most + "A", "k" * (KEY_CHARS + 1), "https://127.0.0.1/a.png" * 3):
        with pytest.raises(ValueError, match="image must be the key of an upload"):
            read_change({"type": "keyframe.set", "image": image, "in_s": 2})
    for in_s in (None, True, "1", -0.1, 601, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"must be seconds from now on, in \[0, 600\]"):
            read_change({"type": "keyframe.set", "image": "key", "in_s": in_s})


@pytest.fixture
def named():
    """What a message's picture becomes, of a model that speaks or of one that does not."""

    def read(image: str, uploads: Uploads | None = None, *, face: bool = False) -> np.ndarray:
        there = uploads or Uploads()
        with contextlib.closing(there):
            return asyncio.run(there.named(image, Framing(tiny_contract(chunk_frames=1).resolution), face=face))

    return read


def test_a_picture_is_an_upload_or_comes_with_the_message(named, portrait: np.ndarray):
    uploads = Uploads()
    assert np.array_equal(named(uploads.add(portrait), uploads), portrait)
    assert np.array_equal(named(data_url(portrait)), portrait)


def test_what_is_no_picture_is_refused_in_words(named, monkeypatch: pytest.MonkeyPatch):
    side = int(UPLOAD_PIXELS**0.5) + 1
    for image, rule in (
        ("nobody's", "This picture is not here any more"),
        ("data:image/png,abc", "must be written as data:image/"),
        ("data:image/png;base64,!", "base64"),
        (f"data:image/png;base64,{base64.b64encode(b'GIF89a' * 9).decode()}", "not a picture that can be read"),
        (data_url(Image.new("1", (side, side))), "must have at most 40 million"),  # of 5 kB
    ):
        with pytest.raises(ChangeRefusedError, match=rule):
            named(image)
    with pytest.raises(ChangeRefusedError, match="No face is seen in this picture"):
        named(data_url(np.zeros((64, 64, 3), np.uint8)), face=True)
    face = Image.open(sample_path("portrait")).convert("RGB")
    assert named(data_url(face, "JPEG", "image/jpeg"), face=True).shape == (32, 48, 3)


def as_server(kit: Kit) -> Heard:
    """The kit's next face reads pictures as the server's does; its engine process notes what it is told."""
    heard, framing = Heard(), kit.api.framing
    pictures = partial(kit.api.uploads.named, framing=framing, face=False)
    face = ProcessFace(heard, "a", np.zeros((32, 48, 3), np.uint8), seed=0, pictures=pictures)  # type: ignore[arg-type]
    kit.faces[-1].change = face.change  # type: ignore[method-assign]
    return heard


def checked(heard: Heard, receipts: list[dict[str, Any]], portrait: np.ndarray) -> None:
    (change,) = heard.changes
    assert change.in_s == 1.5 and np.array_equal(change.picture, portrait)
    done, refused = sorted(receipts, key=lambda one: not one["accepted"])
    assert done == {"type": "receipt", "of": "keyframe.set", "id": 1, "accepted": True, "chunk": 4, "media_s": 0.7}
    assert refused["id"] == 2 and refused["reason"] == "This picture is not here any more. Upload it again."


def test_over_the_websocket_a_picture_comes_with_the_message(portrait: np.ndarray):
    heard = list[Heard]()

    async def script(kit: Kit, watcher: Watcher) -> None:
        await watcher.watch(2)
        heard.append(as_server(kit))
        for number, image in enumerate((data_url(portrait), "gone"), 1):
            await watcher.socket.send_json({"type": "keyframe.set", "image": image, "in_s": 1.5, "id": number})
        while sum(one["type"] == "receipt" for one in watcher.messages) < 2:
            await watcher.watch(1)

    _, watcher = rendered(script)
    checked(heard[0], [one for one in watcher.messages if one["type"] == "receipt"], portrait)


def test_over_the_data_channel_a_picture_is_uploaded_first(portrait: np.ndarray):
    buffer = io.BytesIO()
    Image.fromarray(portrait).save(buffer, "PNG")

    async def script(kit: Kit, client: TestClient) -> None:
        async with Browser() as browser:
            await browser.connect(client, await opened(client))
            await until(lambda: browser.pictures and browser.events)
            heard = as_server(kit)
            kit.api.controls = kit.api.controls.__class__(False, (), (), 0, 1 / 6, sound=False)  # no face is sought
            async with client.post("/v1/images", data=buffer.getvalue()) as uploaded:
                key = (await uploaded.json())["key"]
            for number, image in enumerate((key, "gone"), 1):
                asked = {"type": "keyframe.set", "image": image, "in_s": 1.5, "id": number}
                browser.channel.send(json.dumps(asked))
            receipts = lambda: [e for e in map(json.loads, browser.events) if e["type"] == "receipt"]  # noqa: E731
            await until(lambda: len(receipts()) == 2)
            checked(heard, receipts(), portrait)

    talked(script)


@pytest.mark.slow
def test_the_engine_process_takes_pictures(folder: Path, portrait: np.ndarray, picture: np.ndarray):
    async def run() -> None:
        process = EngineProcess(EngineOptions(artifact=str(folder), device="cpu"))
        uploads = Uploads()
        pictures = partial(uploads.named, framing=Framing(tiny_contract(chunk_frames=1).resolution), face=False)
        face = ProcessFace(process, "a", portrait, seed=3, pictures=pictures)
        try:
            await face.start()
            assert await face.change(SetKeyframe(data_url(picture), 1.0)) == Applied(6, 1.0)
            with pytest.raises(ChangeRefusedError, match="must not be the time of another keyframe"):
                await face.change(SetKeyframe(data_url(picture), 1.0))
        finally:
            uploads.close()
            await process.close()

    asyncio.run(run())
