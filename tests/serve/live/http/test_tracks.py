import asyncio
import time
from fractions import Fraction

import numpy as np
import pytest
from aiortc.codecs import vpx
from aiortc.jitterbuffer import JitterFrame
from av import VideoFrame

from gwm.media.video import read_audio
from gwm.metrics.distance import psnr
from gwm.resolution import Resolution
from serve.artifact import load_artifact
from serve.engine import Engine
from serve.live.avatar.playout import Chunk, Playout
from serve.live.http.tracks import LATE_S, FaceTrack, VoiceTrack, set_video_bitrate
from serve.request import read_portrait
from serve.samples import sample_path

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


@pytest.fixture
def bitrates():
    """aiortc's, as they were."""
    before = vpx.DEFAULT_BITRATE, vpx.MAX_BITRATE
    yield
    vpx.DEFAULT_BITRATE, vpx.MAX_BITRATE = before


def through_vp8(frames: np.ndarray) -> list[np.ndarray]:
    """What a browser shows of them."""
    encoder, decoder, shown = vpx.Vp8Encoder(), vpx.Vp8Decoder(), []
    for number, pixels in enumerate(frames):
        frame = VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = 3_750 * number, Fraction(1, 90_000)
        packets, _ = encoder.encode(frame)
        data = b"".join(vpx.VpxPayloadDescriptor.parse(packet)[1] for packet in packets)
        for one in decoder.decode(JitterFrame(data=data, timestamp=0)):
            assert isinstance(one, VideoFrame)
            shown.append(one.to_ndarray(format="rgb24"))
    return shown


def test_a_speaking_face_of_720_px_comes_through_the_encoder_sharp(bitrates):
    artifact = load_artifact("weights/character")
    set_video_bitrate(Resolution(720, 720))
    portrait = read_portrait("serve/live/characters/noa.jpg", artifact.contract.framing(720), crop=True)
    voice = read_audio(sample_path("speech"))[:36_000]
    frames, _ = Engine(artifact, seed=0, size=720).play(portrait, voice)
    shown = through_vp8(frames)
    assert len(shown) == len(frames) == 36
    assert psnr(np.stack(shown[18:]), frames[18:]).mean() > 37  # 35.2 with aiortc's 0.5 Mbit/s


@pytest.mark.parametrize(
    "frame, most", [(Resolution(128, 128), 1_500_000), (Resolution(720, 720), 2_985_984), (Resolution(1080, 1080), 6e6)]
)
def test_larger_pictures_may_take_more_and_none_too_much(bitrates, frame: Resolution, most: float):
    set_video_bitrate(frame)
    assert most == vpx.MAX_BITRATE and most // 2 == vpx.DEFAULT_BITRATE
