import numpy as np

from serve.live.playout import Mark
from serve.live.sound import Ear, Line


def test_line_goes_on_with_silence_and_counts_only_speech():
    line = Line()
    line.say(np.ones(150, np.float32))
    first, _ = line.take(100)
    second, _ = line.take(100)
    assert first.all() and second[:50].all() and not second[50:].any()
    assert (line.said_samples, line.taken_samples) == (150, 150)


def test_marks_come_with_the_chunk_that_holds_their_sample():
    line, heard = Line(), []
    line.say(np.ones(250, np.float32))
    for sample in (0, 100, 230, 250):
        line.mark(Mark(sample, lambda sample=sample: heard.append(sample)))
    found = []
    for _ in range(3):
        _, marks = line.take(100)
        found.append([mark.sample for mark in marks])
        for mark in marks:
            mark.action()
    assert found == [[0, 100], [], [30, 50]]
    assert heard == [0, 100, 230, 250]


def test_a_mark_in_the_past_comes_at_once():
    line = Line()
    line.say(np.ones(100, np.float32))
    line.take(100)
    line.mark(Mark(40, lambda: None))
    assert [mark.sample for mark in line.take(100)[1]] == [0]


def test_a_cleared_line_is_silent_and_continues_to_count():
    line = Line()
    line.say(np.ones(300, np.float32))
    line.take(100)
    line.mark(Mark(200, lambda: None))
    line.clear()
    voice, marks = line.take(100)
    assert not voice.any() and not marks and line.said_samples == 100
    line.say(np.ones(10, np.float32))
    assert line.take(100)[0][:10].all()


def test_ear_forgets_what_is_too_old_and_is_bounded():
    ear = Ear(limit_samples=200)
    ear.hear(np.arange(1_000, dtype=np.float32))
    assert ear.take(100)[0] == 800
    assert ear.take(150)[:100].min() == 900 and not ear.take(10).any()
