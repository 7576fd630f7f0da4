import asyncio
import io
import time

import numpy as np
import pytest
from PIL import Image

from gwm.media.framing import Framing
from gwm.resolution import Resolution
from serve.live.http.refusals import FullError, NotHereError
from serve.live.http.uploads import DECODED_SIDE, WAITING_UPLOADS, Uploads, decode_upload


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


def test_a_large_picture_is_decoded_at_the_size_that_is_needed():
    buffer = io.BytesIO()
    Image.new("RGB", (3_000, 1_500), (10, 120, 200)).save(buffer, "JPEG")
    image = decode_upload(buffer.getvalue())
    assert max(image.size) == DECODED_SIDE and np.abs(np.asarray(image).astype(int) - (10, 120, 200)).max() < 6
