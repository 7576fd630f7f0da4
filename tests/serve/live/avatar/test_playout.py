import asyncio

import numpy as np
import pytest

from serve.live.avatar.playout import FADE_SAMPLES, Chunk, Cue, Playout

CHUNK = 4_000


def chunk(number: int) -> Chunk:
    """Loud sound, and frames that know their number in the stream."""
    frames = (
        np.full((4, 2, 2, 3), 0, np.uint8) + np.arange(4 * number, 4 * number + 4, dtype=np.uint8)[:, None, None, None]
    )
    return Chunk(np.arange(CHUNK * number, CHUNK * (number + 1)).astype(np.int16) + 1_000, frames)


def filled(chunks: int = 3) -> Playout:
    playout = Playout(frame_samples=1_000, limit_samples=7_200)
    for number in range(chunks):
        playout.put(chunk(number))
    return playout


@pytest.mark.parametrize("step", [480, 1_000, 1_700, 12_000])
def test_frames_come_with_the_sample_they_belong_to_however_the_sound_is_cut(step: int):
    playout, voice, frames, at = filled(), [], [], 0
    while at < 12_000:
        part = playout.advance(min(step, 12_000 - at))
        frames += [(at + offset, int(pixels[0, 0, 0])) for offset, pixels in part.frames]
        voice.append(part.voice)
        at += len(part.voice)
    assert np.array_equal(np.concatenate(voice), np.arange(12_000).astype(np.int16) + 1_000)
    assert frames == [(1_000 * number, number) for number in range(12)]


def test_too_late_a_chunk_stops_both_and_loses_nothing():
    playout = filled(1)
    playout.advance(3_900)
    part = playout.advance(480)
    assert (part.voice[:100] != 0).all() and not part.voice[100:].any() and not part.frames
    playout.advance(480)
    assert (playout.stalls, playout.stalled_samples, playout.played_samples) == (1, 860, 4_000)
    playout.put(chunk(1))
    part = playout.advance(480)
    assert part.voice[0] == 5_000 and [offset for offset, _ in part.frames] == [0]
    assert playout.stalls == 1


def test_waiting_for_the_first_chunk_is_no_stall():
    playout = Playout(frame_samples=1_000, limit_samples=7_200)
    playout.advance(480)
    assert playout.stalls == playout.stalled_samples == 0


def test_fading_out_fades_within_5_ms_and_keeps_the_picture():
    playout = filled(2)
    playout.advance(100)
    playout.fade_out()
    part = playout.advance(7_900)
    fading = part.voice[:FADE_SAMPLES].astype(int)
    assert fading[0] == 1_100 and fading[-1] == 0 and (np.diff(fading) <= 0).all()
    assert not part.voice[FADE_SAMPLES:].any()
    assert len(part.frames) == 7  # the first had been shown


def test_fading_out_fades_across_the_end_of_a_chunk():
    playout = filled(2)
    playout.advance(3_960)
    playout.fade_out()
    voice = playout.advance(480).voice.astype(int)
    assert (np.diff(voice[:FADE_SAMPLES]) <= 0).all() and voice[45] > 0 and not voice[FADE_SAMPLES:].any()


@pytest.mark.parametrize("ahead", [100, 3_960])
def test_fading_out_calls_back_when_its_last_sample_is_played(ahead: int):
    playout, silent = filled(2), []
    playout.advance(ahead)
    playout.fade_out(lambda: silent.append(playout.played_samples))
    for _ in range(10):
        playout.advance(30)
    assert silent == [ahead + FADE_SAMPLES - 30]  # in the call that plays it; counted after


def test_fading_out_of_nothing_is_silent_at_once():
    silent = []
    filled(0).fade_out(lambda: silent.append(True))
    assert silent == [True]


def test_a_cue_is_called_when_its_chunk_is_rendered_and_again_when_it_is_heard():
    called = []
    playout, second = filled(1), chunk(1)
    second.cues = [Cue(100, lambda: called.append("heard"), lambda: called.append("rendered"))]
    playout.put(second)
    assert called == ["rendered"]
    playout.advance(4_200)
    assert called == ["rendered", "heard"]


def test_cues_act_when_their_sample_has_been_heard_and_not_after_fading_out():
    playout, heard = filled(1), []
    second = chunk(1)
    second.cues = [Cue(0, lambda: heard.append("start")), Cue(1_000, lambda: heard.append("middle"))]
    second.cues.append(Cue(4_000, lambda: heard.append("end")))
    playout.put(second)
    playout.advance(3_999)
    assert heard == []
    playout.advance(2)
    assert heard == ["start"]
    playout.advance(999)
    assert heard == ["start", "middle"]
    playout.fade_out()
    playout.advance(4_000)
    assert heard == ["start", "middle"]


def test_room_is_given_only_below_the_limit():
    async def run() -> None:
        playout = filled(1)
        waiting = asyncio.create_task(playout.wait_until(lambda: playout.has_room(CHUNK)))
        await asyncio.sleep(0)
        assert not waiting.done()  # 8000 would be more than 7200
        playout.advance(799)
        await asyncio.sleep(0)
        assert not waiting.done()
        playout.advance(1)
        await asyncio.wait_for(waiting, 1)

    asyncio.run(run())
