import asyncio
import io
import time

import numpy as np
import pytest
from PIL import Image, ImageDraw

from gwm.media.face import FaceMesh, face_square
from gwm.media.framing import Framing
from gwm.metrics.movement import sharpness
from gwm.resolution import Resolution
from serve.live.characters import portrait_of
from serve.live.http.refusals import FullError, NotHereError
from serve.live.http.uploads import DECODED_SIDE, WAITING_UPLOADS, Uploads, decode_upload
from serve.samples import sample_path


def test_uploads_keep_only_the_latest():
    uploads = Uploads(limit=2)
    keys = [uploads.add(np.full((4, 4, 3), number, np.uint8)) for number in range(3)]
    with pytest.raises(NotHereError):
        uploads.get(keys[0])
    assert uploads.get(keys[2])[0, 0, 0] == 2 and len(set(keys)) == 3


def test_uploads_are_decoded_one_at_a_time_and_only_so_many_wait():
    """Each may hold 40 million pixels, and none may keep sound and picture waiting."""

    async def run() -> None:
        uploads, running, most = Uploads(), [0], [0]

        def slow(data: bytes) -> Image.Image:
            running[0] += 1
            most[0] = max(most[0], running[0])
            time.sleep(0.01)
            running[0] -= 1
            return Image.new("RGB", (8, 8))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("serve.live.http.uploads.decode_upload", slow)
            patch.setattr("serve.live.http.uploads.portrait_of", lambda image, framing: (np.asarray(image), True))
            asked = [uploads.portrait(b"", Framing(Resolution(8, 8))) for _ in range(WAITING_UPLOADS + 3)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
        uploads.close()
        assert most == [1] and sum(isinstance(answer, FullError) for answer in answers) == 3

    asyncio.run(run())


def wide_picture() -> Image.Image:
    """8000 x 600 px with a face of 284."""
    wide = Image.new("RGB", (8000, 600), (70, 90, 60))
    wide.paste(Image.open(sample_path("portrait")).convert("RGB"), (6500, 0))
    return wide


def with_transparent_corners() -> Image.Image:
    picture, mask = Image.open(sample_path("portrait")).convert("RGBA"), Image.new("L", (512, 600))
    ImageDraw.Draw(mask).ellipse((80, 0, 430, 520), fill=255)
    picture.putalpha(mask)
    return picture


@pytest.mark.parametrize(
    "make",
    [
        lambda: Image.open(sample_path("portrait")).convert("RGB"),
        lambda: Image.open(sample_path("portrait")).convert("RGB").rotate(90, expand=True),
        lambda: Image.open(sample_path("portrait")).convert("RGB").resize((4000, 4688)),
        wide_picture,
        with_transparent_corners,
    ],
    ids=["upright", "lying", "4000 px wide", "8000 x 600", "transparent"],
)
def test_an_uploaded_face_fills_its_frame_whatever_the_picture(make):
    """A detector finds it where training data has it; the part was not enlarged more than the photograph's needs."""
    buffer, framing = io.BytesIO(), Framing(Resolution(256, 256), 64)
    picture = make()
    picture.save(buffer, "PNG" if picture.mode == "RGBA" else "JPEG")
    portrait, found = portrait_of(decode_upload(buffer.getvalue()), framing)
    face = face_square(framing.shown(portrait), FaceMesh())
    assert found and face is not None
    assert face[1] == pytest.approx(256, rel=0.06) and np.abs(face[0] - 128).max() < 8
    assert sharpness(framing.shown(portrait)[None])[0] > 5


@pytest.mark.parametrize("size", [(2048, 2), (1, 2000), (5000, 63)])
def test_a_strip_is_not_searched_for_faces_square_by_square(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    looks, mesh = [], FaceMesh()
    monkeypatch.setattr(mesh, "_box", lambda image, square: looks.append(square))
    assert mesh.detect(np.zeros((size[1], size[0], 3), np.uint8)) is None and len(looks) == 1


def test_a_large_picture_is_decoded_at_the_size_that_is_needed():
    buffer = io.BytesIO()
    Image.new("RGB", (3_000, 1_500), (10, 120, 200)).save(buffer, "JPEG")
    image = decode_upload(buffer.getvalue())
    assert max(image.size) == DECODED_SIDE and np.abs(np.asarray(image).astype(int) - (10, 120, 200)).max() < 6
