"""What a session sees: which pictures are taken, how long they hold, and what a reader makes of them."""

import asyncio
import io
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serve.live.vision import sight as module
from serve.live.vision.pictures import MAX_PIXELS, PICTURE_BYTES, SOURCES, Picture, read_picture
from serve.live.vision.reader import Words
from serve.live.vision.sight import (
    BURST,
    EVERY_SECOND,
    FRESH_S,
    MODES,
    OFF,
    ON_REQUEST,
    PER_S,
    Sight,
    UnseenError,
    Vision,
)


def jpeg(width: int = 64, height: int = 48, colour: int = 90, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (colour, 120, 200)).save(buffer, form)
    return buffer.getvalue()


class FakeReader:
    """Says the average red of a picture, when it is let."""

    def __init__(self) -> None:
        self.asked: list[Picture] = []
        self.go = asyncio.Event()
        self.wrong: Exception | None = None

    async def words(self, picture: Picture, before: np.ndarray | None) -> Words:
        self.asked.append(picture)
        await self.go.wait()
        if self.wrong:
            raise self.wrong
        red = round(float(np.asarray(Image.open(io.BytesIO(picture.jpeg)))[..., 0].mean()) / 10)
        return Words(f"red {red}", np.zeros((1, 1), np.uint8))

    def close(self) -> None: ...


class Setting:
    def __init__(
        self, reader: FakeReader | None = None, sources: tuple[str, ...] = SOURCES, mode: str = EVERY_SECOND
    ) -> None:
        self.now = 100.0
        self.events: list[dict[str, Any]] = []
        self.works: list[Coroutine[Any, Any, None]] = []
        self.sight = Sight(
            Vision(sources, reader, mode),
            on_event=self.events.append,
            spawn=self.works.append,
            clock=lambda: self.now,
        )

    def show(self, source: str = "screen", colour: int = 90) -> None:
        self.sight.take(Picture(source, jpeg(colour=colour)))


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (b"", "byte for its source"),
        (b"\x07" + jpeg(), "byte for its source"),
        (b"\x01" + b"not a picture", "cannot be read"),
        (b"\x01" + jpeg(form="PNG"), "cannot be read"),
        (b"\x01" + jpeg()[:-20], "cut off"),
        (b"\x01" + jpeg(4_000, 3_000), "4000 x 3000 pixels"),
        (b"\x01" + jpeg()[:-2] + bytes(PICTURE_BYTES) + b"\xff\xd9", "bytes, must be"),
    ],
)
def test_what_is_no_picture_of_a_size_that_is_taken_is_refused_with_the_rule(message: bytes, cause: str):
    with pytest.raises(ValueError, match=cause):
        read_picture(message)


def test_a_picture_is_taken_by_its_source_and_as_it_came():
    assert read_picture(b"\x01" + jpeg()) == Picture("screen", jpeg())
    assert read_picture(b"\x00" + jpeg(1_900, 1_200)).source == "camera"
    assert 1_900 * 1_200 <= MAX_PIXELS


def test_the_latest_picture_of_each_source_is_seen_until_it_is_old_or_hidden():
    setting = Setting()
    for colour in (10, 60):
        setting.show("screen", colour)
        setting.now += 1
    setting.show("camera")
    assert [each.source for each in setting.sight.pictures()] == ["screen", "camera"]
    assert setting.sight.pictures()[0].jpeg == jpeg(colour=60)
    setting.sight.hide("camera")
    assert setting.sight.shown == ("screen",)
    setting.now += FRESH_S
    assert setting.sight.pictures() == [] and setting.sight.shown == ()


def test_a_source_that_is_not_looked_at_is_refused():
    with pytest.raises(ValueError, match="The camera is not looked at here: only screen"):
        Setting(sources=("screen",)).show("camera")
    for source in ("door", 7, None):
        with pytest.raises(ValueError, match="source must be one of camera, screen"):
            Setting().sight.hide(source)


def test_pictures_beyond_two_a_second_are_left_out():
    setting = Setting()
    for _ in range(20):
        setting.show(colour=10)
    setting.show(colour=200)
    assert setting.sight.pictures()[0].jpeg == jpeg(colour=10)
    setting.now += BURST / PER_S
    setting.show(colour=200)
    assert setting.sight.pictures()[0].jpeg == jpeg(colour=200)


def ran(script: Callable[[Setting, FakeReader], Coroutine[Any, Any, None]], mode: str = EVERY_SECOND) -> Setting:
    async def run() -> Setting:
        reader = FakeReader()
        setting = Setting(reader, mode=mode)
        await script(setting, reader)
        return setting

    return asyncio.run(run())


def test_while_one_picture_is_read_only_the_latest_waits():
    async def script(setting: Setting, reader: FakeReader) -> None:
        for colour in (10, 60, 200):
            setting.show(colour=colour)
            setting.now += 1
        assert len(setting.works) == 1
        reader.go.set()
        await setting.works.pop()
        assert [each.jpeg for each in reader.asked] == [jpeg(colour=200)]
        setting.show(colour=60)
        await setting.works.pop()

    setting = ran(script)
    said = [(event["type"], event["source"], event["text"], event["by"]) for event in setting.events]
    assert said == [("vision.seen", "screen", words, "text recognition") for words in ("red 20", "red 6")]
    assert [(each.title, each.text) for each in setting.sight.sightings()] == [
        ("the visitor's screen, by text recognition (fallback)", "red 6")
    ]
    assert setting.sight.pictures() == []


def test_what_is_hidden_while_it_is_read_is_forgotten():
    async def script(setting: Setting, reader: FakeReader) -> None:
        setting.show()
        reading = asyncio.create_task(setting.works.pop())
        await asyncio.sleep(0)
        setting.sight.clear()
        reader.go.set()
        await reading

    setting = ran(script)
    assert setting.events == [] and setting.sight.sightings() == []


def test_what_was_hidden_while_it_was_read_says_nothing_of_what_is_shown_after_it():
    async def script(setting: Setting, reader: FakeReader) -> None:
        setting.show(colour=10)
        reading = asyncio.create_task(setting.works.pop())
        await asyncio.sleep(0)
        setting.sight.hide("screen")
        setting.sight.show("screen")
        setting.show(colour=200)
        reader.go.set()
        await reading

    assert [event["text"] for event in ran(script).events] == ["red 20"]


def test_the_words_of_a_screen_that_grew_old_are_not_those_of_the_next_one():
    async def script(setting: Setting, reader: FakeReader) -> None:
        reader.go.set()
        setting.show(colour=10)
        await setting.works.pop()
        setting.now += 2 * FRESH_S
        setting.show(colour=200)
        assert setting.sight.shown == ("screen",) and setting.sight.sightings() == []
        await setting.works.pop()

    assert [each.text for each in ran(script).sight.sightings()] == ["red 20"]


def test_a_picture_that_cannot_be_read_is_told_and_the_next_one_is_read():
    async def script(setting: Setting, reader: FakeReader) -> None:
        reader.go.set()
        reader.wrong = ValueError("The picture of the screen cannot be decoded.")
        setting.show()
        await setting.works.pop()
        reader.wrong = None
        setting.show()
        await setting.works.pop()

    assert [event["type"] for event in ran(script).events] == ["error", "vision.seen"]


async def asked(setting: Setting, source: str = "screen") -> asyncio.Task[None]:
    """A look that has asked for its picture."""
    looking = asyncio.create_task(setting.sight.look(source))
    await asyncio.sleep(0)
    return looking


def test_on_request_a_picture_is_taken_when_it_is_asked_for_and_no_other_one():
    async def script() -> Setting:
        setting = Setting(mode=ON_REQUEST)
        setting.sight.show("screen")
        setting.show(colour=10)
        assert setting.sight.pictures() == [] and setting.events == []
        looking = await asked(setting)
        assert setting.events == [{"type": "vision.look", "source": "screen"}]
        setting.show(colour=60)
        setting.show(colour=200)
        await looking
        return setting

    setting = asyncio.run(script())
    assert [each.jpeg for each in setting.sight.pictures()] == [jpeg(colour=60)]
    setting.sight.begin_question()
    assert setting.sight.pictures() == []


def test_where_a_reader_reads_a_look_ends_when_it_has_read():
    async def script(setting: Setting, reader: FakeReader) -> None:
        setting.sight.show("screen")
        looking = await asked(setting)
        setting.show(colour=60)
        reading = asyncio.create_task(setting.works.pop())
        await asyncio.sleep(0)
        assert not looking.done()
        reader.go.set()
        await reading
        await looking
        assert [each.text for each in setting.sight.sightings()] == ["red 6"]

    assert [event["type"] for event in ran(script, ON_REQUEST).events] == ["vision.look", "vision.seen"]


@pytest.mark.parametrize("mode", [ON_REQUEST, EVERY_SECOND])
def test_what_the_visitor_has_not_switched_on_is_not_looked_at(mode: str):
    setting = Setting(mode=mode)
    for _ in range(2):
        with pytest.raises(UnseenError, match="does not show the screen"):
            asyncio.run(setting.sight.look("screen"))
        setting.sight.show("screen")
        setting.sight.hide("screen")
    assert setting.events == [] and setting.sight.available == ()


def test_a_look_ends_with_the_reason_when_the_source_is_switched_off_or_no_picture_comes(
    monkeypatch: pytest.MonkeyPatch,
):
    async def script(setting: Setting, reader: FakeReader) -> None:
        setting.sight.show("camera")
        looking = await asked(setting, "camera")
        setting.sight.hide("camera")
        with pytest.raises(UnseenError, match="has switched the camera off"):
            await looking
        setting.sight.show("camera")
        monkeypatch.setattr(module, "LOOK_S", 0.01)
        with pytest.raises(UnseenError, match="No picture of the camera"):
            await setting.sight.look("camera")
        setting.show("camera")  # too late
        assert setting.sight.shown == ()

    ran(script, ON_REQUEST)


def test_a_picture_that_cannot_be_read_ends_the_look_that_asked_for_it():
    async def script(setting: Setting, reader: FakeReader) -> None:
        reader.go.set()
        reader.wrong = ValueError("The picture of the screen cannot be decoded.")
        setting.sight.show("screen")
        looking = await asked(setting)
        setting.show()
        await setting.works.pop()
        with pytest.raises(UnseenError, match="cannot be decoded"):
            await looking

    ran(script, ON_REQUEST)


def test_of_two_modes_the_one_that_sees_less_holds():
    vision = Vision(SOURCES, None)
    assert vision.within(EVERY_SECOND) == vision and vision.within(OFF) is None
    asked = vision.within(ON_REQUEST)
    assert asked is not None and asked.mode == ON_REQUEST and asked.within(EVERY_SECOND) == asked
    assert MODES == (OFF, ON_REQUEST, EVERY_SECOND) and asked.offered()["mode"] == ON_REQUEST


def test_a_picture_that_was_on_its_way_when_its_source_was_switched_off_is_not_taken():
    setting = Setting()
    setting.show("screen")
    setting.sight.hide("screen")
    setting.now += 1
    setting.show("screen")
    setting.show("camera")
    assert setting.sight.shown == ("camera",) and not setting.sight.wants("screen")
    setting.now += 1
    setting.sight.show("screen")
    setting.show("screen")
    assert set(setting.sight.shown) == {"camera", "screen"}


def test_whoever_takes_the_visitors_place_has_switched_nothing_off():
    setting = Setting()
    setting.sight.hide("screen")
    setting.sight.clear()
    setting.show("screen")
    assert setting.sight.shown == ("screen",)
