import asyncio
import time

import numpy as np

from serve.live.avatar.playout import Chunk, Playout
from serve.live.http.tracks import LATE_S, FaceTrack, VoiceTrack

PIXELS = np.zeros((16, 16, 3), np.uint8)


def tracks() -> tuple[Playout, FaceTrack, VoiceTrack]:
    playout, face = Playout(frame_samples=1_000, limit_samples=50_000), FaceTrack(24_000)
    for _ in range(4):
        playout.put(Chunk(np.zeros(4_000, np.int16), np.zeros((4, 16, 16, 3), np.uint8)))
    return playout, face, VoiceTrack(playout, face, 24_000)


def test_time_stamps_of_both_tracks_are_media_time():
    """24 frames a second on a clock of 90 kHz is 3750 a frame; aiortc's own would be 3000."""

    async def run() -> None:
        _, face, voice = tracks()
        sounds, pictures = [], []
        for _ in range(20):
            sounds.append(await voice.recv())
            while not face._frames.empty():
                pictures.append(await face.recv())
        assert [frame.pts for frame in sounds] == list(range(0, 9_600, 480))
        assert [frame.pts for frame in pictures] == [3_750 * number for number in range(10)]

    asyncio.run(run())


def test_sound_is_sent_in_real_time():
    _, _, voice = tracks()
    assert voice.wait_s(100.0) == 0  # the first packet starts the clock
    voice.sent_samples = 24_000
    assert np.isclose(voice.wait_s(100.7), 0.3)
    assert np.isclose(voice.wait_s(101.1), -0.1)  # late: at once, and the next one sooner


def test_after_a_long_delay_there_is_no_burst():
    _, _, voice = tracks()
    voice.wait_s(100.0)
    voice.sent_samples = 24_000
    assert np.isclose(voice.wait_s(101 + LATE_S + 0.1), 0)
    voice.sent_samples += 480
    assert np.isclose(voice.wait_s(101 + LATE_S + 0.1), 0.02)


def test_a_slow_encoder_gets_the_newest_frames():
    async def run() -> None:
        face = FaceTrack(24_000)
        for number in range(5):
            face.show(1_000 * number, PIXELS, due_s=0.0)
        assert [(await face.recv()).pts for _ in range(2)] == [3_750 * 3, 3_750 * 4]
        assert face.dropped == 3

    asyncio.run(run())


def test_a_frame_is_sent_when_its_sound_is_heard_and_not_with_its_packet():
    """A frame that is sent up to a packet too early tells the browser of a clock that jumps by as much."""

    async def run() -> None:
        _, face, voice = tracks()
        for _ in range(3):
            await voice.recv()
        assert voice._start_s is not None
        while not face._frames.empty():
            sample, _, due_s = face._frames.get_nowait()
            assert abs(due_s - voice._start_s - sample / 24_000) < 1e-6
        begin_s = time.monotonic()
        face.show(0, PIXELS, due_s=begin_s + 0.05)
        await face.recv()
        assert time.monotonic() > begin_s + 0.045

    asyncio.run(run())


def test_a_late_frame_is_sent_at_once():
    async def run() -> None:
        face = FaceTrack(24_000)
        face.show(1_000, PIXELS, due_s=time.monotonic() - 5)
        frame = await asyncio.wait_for(face.recv(), 0.5)
        assert (frame.pts, face.sent, face.dropped) == (3_750, 1, 0)

    asyncio.run(run())
