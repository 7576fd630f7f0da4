"""The performer with a face that draws the loudness it hears."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from serve.acts import Applied
from serve.bench import turned_clock
from serve.live.avatar.changes import Change, Rewind
from serve.live.avatar.performer import Performer
from tests.serve.live.level_face import TIMING, LevelFace, RetakingFace, SlowFace, played


def speech(seconds: float, level: float = 0.5) -> np.ndarray:
    return np.full(round(24_000 * seconds), level, np.float32)


def heard(performer: Performer, packets: int, act: Callable[[int], Awaitable[None]]) -> np.ndarray:
    """The sound of so many packets of 20 ms, from the first chunk on; `act` behind each of them."""
    sound = list[np.ndarray]()

    async def run() -> None:
        task = asyncio.create_task(performer.run())
        await performer.playout.wait_until_ready(TIMING.chunk_samples)
        for number in range(packets):
            sound.append(performer.playout.advance(480).voice)
            await act(number)
            await asyncio.sleep(0.02)
        task.cancel()

    turned_clock.run(run())
    return np.concatenate(sound)


def test_every_frame_shows_the_sound_that_is_heard_with_it(performer: Performer):
    async def script(play):
        performer.say(speech(1.0), generation=0)
        await play(2)

    voice, frames = played(performer, script)
    assert (voice != 0).sum() == 24_000
    for sample, level in frames:
        assert level == (50 if voice[sample] else 0)


def test_silence_is_performed_at_24_frames_a_second(performer: Performer):
    voice, frames = played(performer, lambda play: play(1))
    gaps = np.diff([sample for sample, _ in frames])
    assert not voice.any() and len(frames) > 50 and (gaps == 1_000).all()


def test_engine_is_never_further_ahead_than_the_lead(performer: Performer):
    ahead = []

    async def script(play):
        for _ in range(50):
            await play(0.02)
            ahead.append(performer.playout.queued_samples)

    played(performer, script)
    assert max(ahead) <= TIMING.lead_samples and min(ahead) > 0


def test_after_a_slow_chunk_the_next_slow_one_comes_in_time_and_the_lead_is_kept():
    """Chunks of 60 ms, and every twelfth of 170: more than the 133 ms that the lead leaves."""
    outcomes, ahead = list[str](), list[int]()
    performer = Performer(SlowFace(*[0.06] * 11, 0.17), TIMING, on_chunk=outcomes.append)

    async def note(number: int) -> None:
        ahead.append(performer.playout.queued_samples)

    heard(performer, 500, note)
    assert outcomes.count("late") == 1 and len(outcomes) > 48  # the first slow one
    assert max(ahead) <= TIMING.lead_samples


def test_interruption_is_silent_within_5_ms_and_the_mouth_closes_within_the_lead(performer: Performer):
    cues, queued = [], []

    async def script(play):
        performer.say(speech(3), generation=0)
        performer.cue(lambda: cues.append("said"), generation=0)
        await play(1)
        queued.append(performer.playout.queued_samples)
        performer.interrupt()
        performer.say(speech(1), generation=0)  # comes too late: of the old generation
        await play(1)

    voice, frames = played(performer, script)
    onset = round(1.5 * 24_000)
    assert voice[:onset].any() and not voice[onset + 120 :].any() and not cues
    open_frames = [sample for sample, level in frames if level]
    assert max(open_frames) - onset < queued[0] <= TIMING.lead_samples  # only what was rendered is still seen
    assert (np.diff([sample for sample, _ in frames]) == 1_000).all()  # no frame was left out: no jump cut


def test_speech_after_an_interruption_is_heard(performer: Performer):
    async def script(play):
        performer.interrupt()
        performer.say(speech(0.5), generation=1)
        await play(1)

    voice, _ = played(performer, script)
    assert (voice != 0).sum() == 12_000


def test_the_other_voice_reaches_the_engine(performer: Performer, face: LevelFace):
    async def script(play):
        performer.push_microphone(speech(0.1, 0.25))
        await play(0.5)

    played(performer, script)
    assert sum((user == 0.25).sum() for user in face.users) == 2_400


def test_the_engine_looks_ahead_to_what_is_known_and_speech_waits_for_no_lookahead(
    performer: Performer, face: LevelFace
):
    started = []

    async def script(play):
        started.append(performer.playout.played_samples + performer.playout.queued_samples)
        performer.say(speech(0.5), generation=0)  # three chunks
        await play(1)

    voice, _ = played(performer, script)
    onset = int(np.flatnonzero(voice)[0])
    assert onset == started[0]  # right behind what was made before
    begin = next(number for number, ahead in enumerate(face.ahead) if ahead.any())
    assert [ahead.all() for ahead in face.ahead[begin : begin + 3]] == [True, True, False]
    assert onset == TIMING.chunk_samples * begin  # its first chunk is the first that looks ahead to more of it


def test_voice_goes_on_without_a_picture_and_a_new_engine_takes_over(performer: Performer, face: LevelFace):
    async def script(play):
        performer.say(speech(4), generation=0)
        await play(1)
        face.lost = True
        await play(1)
        assert performer.losses == 1
        face.lost = False
        await asyncio.sleep(1.1)  # the performer's own pause between attempts
        await play(2)

    voice, frames = played(performer, script)
    assert (voice != 0).sum() == 96_000 and performer.playout.stalls == 0
    assert face.starts == 2
    samples = np.array([sample for sample, _ in frames])
    assert np.diff(samples).max() > 12_000  # the picture stayed for a while
    for sample, level in frames:
        assert level == (50 if voice[sample] else 0)  # and is in time again


def test_lead_shorter_than_a_chunk_is_an_error():
    with pytest.raises(ValueError, match="lead of 3999 samples must be at least a chunk's 4000"):
        dataclasses.replace(TIMING, lead_samples=3_999)


def test_overlapped_chunks_keep_sound_and_picture_together_and_an_interruption_as_fast():
    """One chunk more is under way; what is said of it is dropped too."""
    timing = dataclasses.replace(TIMING, in_flight_chunks=1)
    assert timing.delay_ms == pytest.approx(TIMING.delay_ms + 1000 / 6)
    silences = []
    for each in (TIMING, timing):
        performer = Performer(LevelFace(each), each)

        async def script(play, performer=performer):
            performer.say(speech(3.0), generation=0)
            await play(1.5)
            begin = performer.playout.played_samples
            performer.interrupt(lambda: silences.append(performer.playout.played_samples - begin))
            await play(1)

        voice, frames = played(performer, script)
        heard = np.flatnonzero(voice)
        assert len(heard) and np.diff(heard).max() == 1  # nothing of the old speech comes after the silence
        begin, end = heard[0], heard[-1]
        for sample, level in frames:
            if sample <= end:
                assert level == (50 if begin <= sample else 0)
        assert [level for _, level in frames][-4:] == [0] * 4
    assert len(silences) == 2 and max(silences) <= 0.15 * 24_000


def begun_after(face: LevelFace, *, wait_s: float, said: np.ndarray) -> tuple[float, np.ndarray, list[tuple[int, int]]]:
    """Seconds from when speech comes, so long into a conversation, to when it is heard; and all sound and frames."""
    voice, frames, begin = list[np.ndarray](), list[tuple[int, int]](), list[float]()

    async def run() -> None:
        performer, loop = Performer(face, TIMING), asyncio.get_running_loop()
        task = asyncio.create_task(performer.run())
        await performer.playout.wait_until_ready(TIMING.chunk_samples)
        start = loop.time()

        def say() -> None:
            begin.append((loop.time() - start) * TIMING.sample_rate)
            performer.say(said, generation=0)

        loop.call_later(wait_s, say)
        for number in range(round(50 * (wait_s + 2))):
            part = performer.playout.advance(480)
            frames.extend((480 * number + offset, int(pixels[0, 0, 0])) for offset, pixels in part.frames)
            voice.append(part.voice)
            assert performer.playout.queued_samples <= TIMING.lead_samples
            await asyncio.sleep(start + (number + 1) / 50 - loop.time())
        assert not performer.playout.stalls
        task.cancel()

    turned_clock.run(run())
    sound = np.concatenate(voice)
    return (np.flatnonzero(sound)[0] - begin[0]) / TIMING.sample_rate, sound, frames


# Of a chunk's time, so that speech comes at every moment between two chunks.
MOMENTS = np.arange(2, 2 + 1 / 6, 0.013)


def test_speech_begins_within_the_chunk_that_is_played_where_the_engine_can_make_it_again():
    """In 120 ms and not in 250, with chunks that take 50; with its frames, and without a stall."""
    waits, before = list[float](), list[float]()
    for wait_s in MOMENTS:
        face = RetakingFace(0.05)
        wait, sound, frames = begun_after(face, wait_s=wait_s, said=speech(1.0))
        waits.append(wait)
        assert face.again == 1 and (sound != 0).sum() == 24_000
        onset = np.flatnonzero(sound)[0]
        for sample, level in frames:
            if not onset - TIMING.frame_samples < sample < onset:  # the frame that is shown when it begins
                assert level == (50 if sound[sample] else 0)
        assert np.diff([sample for sample, _ in frames]).max() == TIMING.frame_samples
        before.append(begun_after(SlowFace(0.05), wait_s=wait_s, said=speech(1.0))[0])
    assert max(waits) < 0.17 and np.mean(waits) < 0.12 and np.mean(before) > 0.2


def test_speech_of_which_too_little_is_known_waits_for_the_next_chunk():
    """It would be heard in two parts."""
    face = RetakingFace(0.05)
    begun_after(face, wait_s=2.0, said=speech(0.02))
    assert not face.again


def test_an_engine_that_keeps_no_chunk_is_asked_once_and_speech_is_heard_whole():
    class Forgetful(RetakingFace):
        async def retake(self, agent: np.ndarray, *, within_s: float) -> np.ndarray | None:
            self.again += 1
            return None

    face = Forgetful(0.05)
    performer = Performer(face, TIMING)

    async def speak(number: int) -> None:
        if number in (50, 120):
            performer.say(speech(0.5), generation=0)

    assert (heard(performer, 200, speak) != 0).sum() == 24_000 and face.again == 1


def test_the_engine_is_asked_as_soon_as_speech_comes_and_not_with_the_next_packet():
    face, asked = RetakingFace(0.05), list[int]()
    performer = Performer(face, TIMING)

    async def speak(number: int) -> None:
        if number > 50 and not asked and performer.playout.queued_samples > 0.2 * TIMING.sample_rate:
            performer.say(speech(1.0), generation=0)
            await asyncio.sleep(0.001)
            asked.append(face.again)

    heard(performer, 100, speak)
    assert asked == [1]


def test_a_chunk_that_is_made_again_too_late_is_heard_from_where_it_is():
    """Nothing of the speech is lost, and nothing waits for it."""

    class Late(RetakingFace):
        async def retake(self, agent: np.ndarray, *, within_s: float) -> np.ndarray | None:
            await asyncio.sleep(0.03)
            return await super().retake(agent, within_s=within_s)

    _, sound, _ = begun_after(Late(0.04), wait_s=2.0, said=speech(1.0))
    assert (sound != 0).sum() == 24_000 and np.diff(np.flatnonzero(sound)).max() == 1


@pytest.mark.parametrize("during", [False, True], ids=["between", "during"])
def test_after_a_change_no_chunk_is_made_again_before_the_next(during: bool):
    """The engine's latest chunk may be another one than what is played; also where it is asked for while that is
    made."""
    face = RetakingFace(0.05)
    performer = Performer(face, TIMING)

    async def rewind(number: int) -> None:
        if number > 50 and not face.changes and performer._turn.locked() == during:
            await performer.change(Rewind(1))
            performer.say(speech(1.0), generation=0)

    assert heard(performer, 100, rewind).any()
    assert not face.again and face.changes


def test_after_a_change_that_went_behind_a_chunk_none_is_made_again_before_the_next():
    """Such as one of a session that changes too much, or a prompt that is still encoded."""

    class Busy(RetakingFace):
        async def change(self, change: Change) -> Applied:
            await asyncio.sleep(0.25)
            return await super().change(change)

    face, changing = Busy(0.05), list[asyncio.Task[Applied]]()
    performer = Performer(face, TIMING)

    async def speak() -> Applied:
        applied = await performer.change(Rewind(1))
        performer.say(speech(0.3), generation=0)
        return applied

    async def rewind(number: int) -> None:
        if number % 61 == 20:  # another moment between two chunks each time
            changing.append(asyncio.create_task(speak()))

    assert heard(performer, 560, rewind).any()
    assert len(changing) == len(face.changes) == 9 and not face.again


@pytest.mark.parametrize(
    ("chunks_s", "talking", "made_again"),
    [
        ([0.04], 1.0, True),
        ([0.08], 1.0, True),
        ([0.12], 1.0, False),
        ([0.15], 1.0, False),
        ([0.04], 1.25, True),  # speech takes the same cores
        ([0.08], 1.25, True),
        ([0.11], 1.25, True),
        ([0.12], 1.25, False),
        ([0.14, 0.15, 0.16], 1.0, False),
        ([*[0.06] * 7, 0.12], 1.0, True),
    ],
)
def test_making_chunks_again_stalls_nothing_at_whatever_speed(chunks_s: list[float], talking: float, made_again: bool):
    """Three sentences of 0.3 s in three seconds, from every moment between two chunks on; and after a slow one that
    was seen before."""
    again = 0
    for moment in range(9):
        stalls = list[int]()
        for kind in (SlowFace, RetakingFace):
            face = kind(*chunks_s, talking=talking)
            performer = Performer(face, TIMING)

            async def speak(number: int, performer: Performer = performer, moment: int = moment) -> None:
                if number > 100 and (number - moment) % 50 == 0:
                    performer.say(speech(0.3), generation=0)

            sound = heard(performer, 300, speak)
            stalls.append(performer.playout.stalls)
            assert (sound != 0).sum() >= 3 * 7_200
        assert stalls == [0, 0], (moment, stalls)
        assert isinstance(face, RetakingFace)
        again += face.again
    assert bool(again) == made_again
