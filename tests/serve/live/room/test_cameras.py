"""Cameras and screens that LiveKit's clients publish: seen where the server looks, declined where it does not."""

from pathlib import Path
from typing import Any

import av
import numpy as np
from aiortc.mediastreams import VideoStreamTrack
from livekit.protocol import models, rtc

from serve.live.http.conversation import Conversation
from serve.live.room.cameras import KeyFrames, key_frame_size, to_jpeg
from serve.live.vision.pictures import MAX_PIXELS, PICTURE_BYTES
from tests.serve.live.room.room_kit import RoomClient, consumed, until
from tests.serve.runway_api.api_kit import Served, served


def frame(red: int, width: int = 160, height: int = 96) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.full((height, width, 3), (red, 40, 40), np.uint8), format="rgb24")


class Red(VideoStreamTrack):
    async def recv(self) -> av.VideoFrame:
        shown = frame(200)
        shown.pts, shown.time_base = await self.next_timestamp()
        return shown


def talk_of(one: Served) -> Conversation:
    (talk,) = one.kit.admission.sessions.values()
    assert isinstance(talk, Conversation)
    return talk


def test_a_screen_that_a_client_publishes_is_seen_until_it_is_muted(tmp_path: Path):
    async def script(one: Served) -> None:
        _, room = await consumed(one)
        async with RoomClient(screen=Red()) as client:
            await client.join(one.http, room)
            sight = talk_of(one).sight
            assert sight is not None
            seen = await client.message("vision.seen")
            assert (seen["source"], seen["text"]) == ("screen", "screen of red 200")
            published = [each.track_published.track for each in client.signals if each.HasField("track_published")]
            (screen,) = [track for track in published if track.source == models.SCREEN_SHARE]
            await client.publisher.getSenders()[-1].stop()
            client.request(mute=rtc.MuteTrackRequest(sid=screen.sid, muted=True))
            await until(lambda: not sight.shown)

    served(script, tmp_path)


def test_a_screen_is_declined_where_nobody_looks(tmp_path: Path):
    async def script(one: Served) -> None:
        one.kit.vision = None
        _, room = await consumed(one)
        async with RoomClient(screen=Red()) as client:
            await client.join(one.http, room)
            directions = [each.currentDirection for each in client.publisher.getTransceivers() if each.kind == "video"]
            assert directions == ["inactive", "recvonly"]

    served(script, tmp_path)


class Encoded:
    def __init__(self, data: bytes) -> None:
        self.data = data


class Codec:
    name = "VP8"


def test_only_a_key_frame_a_second_of_a_size_that_is_taken_reaches_the_decoder():
    begin = b"\x10\x02\x00\x9d\x01\x2a" + (640).to_bytes(2, "little") + (360).to_bytes(2, "little")
    assert key_frame_size(begin) == (640, 360)
    assert key_frame_size(b"\x11" + begin[1:]) is None and key_frame_size(b"\x10\x02") is None
    large = list[Any]()
    frames = KeyFrames(lambda *size: large.append(size))
    for data in (b"\x11" + begin[1:], begin, begin, b"x"):
        frames.put((Codec, Encoded(data)))
    assert frames.qsize() == 1
    frames.put(None)
    assert frames.qsize() == 2  # the end always reaches it
    other = KeyFrames(lambda *size: large.append(size))
    side = (4_000).to_bytes(2, "little")
    other.put((Codec, Encoded(begin[:6] + side + side)))
    assert other.empty() and large == [(4_000, 4_000)] and 4_000**2 > MAX_PIXELS


def test_a_picture_is_made_to_fit():
    noise = np.random.default_rng(0).integers(0, 255, (1_080, 1_920, 3), np.uint8)
    assert len(to_jpeg(av.VideoFrame.from_ndarray(noise, format="rgb24"))) <= PICTURE_BYTES
