import numpy as np

from serve.live.avatar.playout import Cue
from serve.live.avatar.voice_buffers import MicBuffer, SpeechQueue


def test_speech_goes_on_with_silence_and_counts_only_speech():
    speech = SpeechQueue()
    speech.say(np.ones(150, np.float32))
    first, _ = speech.take(100)
    second, _ = speech.take(100)
    assert first.all() and second[:50].all() and not second[50:].any()
    assert (speech.said_samples, speech.taken_samples) == (150, 150)


def test_cues_come_with_the_chunk_that_holds_their_sample():
    speech, heard = SpeechQueue(), []
    speech.say(np.ones(250, np.float32))
    for sample in (0, 100, 230, 250):
        speech.cue(Cue(sample, lambda sample=sample: heard.append(sample)))
    found = []
    for _ in range(3):
        _, cues = speech.take(100)
        found.append([cue.sample for cue in cues])
        for cue in cues:
            cue.action()
    assert found == [[0, 100], [], [30, 50]]
    assert heard == [0, 100, 230, 250]


def test_a_cue_in_the_past_comes_at_once():
    speech = SpeechQueue()
    speech.say(np.ones(100, np.float32))
    speech.take(100)
    speech.cue(Cue(40, lambda: None))
    assert [cue.sample for cue in speech.take(100)[1]] == [0]


def test_a_cleared_queue_is_silent_and_continues_to_count():
    speech = SpeechQueue()
    speech.say(np.ones(300, np.float32))
    speech.take(100)
    speech.cue(Cue(200, lambda: None))
    speech.clear()
    voice, cues = speech.take(100)
    assert not voice.any() and not cues and speech.said_samples == 100
    speech.say(np.ones(10, np.float32))
    assert speech.take(100)[0][:10].all()


def test_the_mic_buffer_forgets_what_is_too_old_and_is_bounded():
    microphone = MicBuffer(limit_samples=200)
    microphone.push(np.arange(1_000, dtype=np.float32))
    assert microphone.take(100)[0] == 800
    assert microphone.take(150)[:100].min() == 900 and not microphone.take(10).any()
