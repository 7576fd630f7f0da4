import numpy as np
import pytest

from data.actions import ACTION_NAMES
from data.behaviour import blinks, energy, gaze, interest, nods, pitch, smooth_noise
from data.performance import Performance, perform
from data.speech.sentences import split_of

NUM_FRAMES = 48
JAW, BLINK = ACTION_NAMES.index("jawOpen"), ACTION_NAMES.index("eyeBlinkLeft")


@pytest.fixture(scope="module")
def clips() -> list[Performance]:
    return [perform(seed, NUM_FRAMES, "train") for seed in range(60)]


def test_a_seed_gives_the_same_performance(clips):
    again = perform(7, NUM_FRAMES, "train")
    for name in ("actions", "pose", "gaze", "agent", "user", "agent_speaking"):
        assert np.array_equal(getattr(again, name), getattr(clips[7], name)), name


def test_audio_is_exactly_1000_samples_a_frame_in_range(clips):
    for clip in clips:
        assert clip.agent.shape == clip.user.shape == (1000 * NUM_FRAMES,)
        assert clip.agent.dtype == np.float32 and max(np.abs(clip.agent).max(), np.abs(clip.user).max()) <= 1


def test_phonemes_cover_the_clip(clips):
    for clip in clips:
        lengths = [end - start for _, start, end in clip.phonemes]
        assert min(lengths) > 0 and sum(lengths) == pytest.approx(NUM_FRAMES / 24)


def test_the_listener_keeps_its_mouth_shut(clips):
    """Also with noise in the agent's stream; 8 frames around its own speech are left to coarticulation."""
    opened = [clip.actions[~near(clip.agent_speaking, 8), JAW] for clip in clips]
    assert np.concatenate(opened).size > 300 and np.concatenate(opened).max() < 0.03


def near(active: np.ndarray, frames: int) -> np.ndarray:
    return np.convolve(active, np.ones(2 * frames + 1), mode="same") > 0


def test_the_speaker_opens_its_mouth(clips):
    talking = [clip.actions[clip.agent_speaking, JAW].max() for clip in clips if clip.agent_speaking.mean() > 0.5]
    assert min(talking) > 0.2 and np.median(talking) > 0.4


def test_both_streams_and_scenes_occur_in_the_planned_shares(clips):
    agent = np.mean([clip.agent_speaking.mean() for clip in clips])
    user = np.mean([clip.user_speaking.mean() for clip in clips])
    assert 0.5 < agent < 0.8 and 0.12 < user < 0.4
    assert not any((clip.agent_speaking & clip.user_speaking).any() for clip in clips)


def test_flags_and_text_agree_with_the_streams(clips):
    for clip in clips:
        assert clip.agent_speaking.any() <= (clip.sentence is not None)
        assert clip.user_speaking.any() <= (clip.user_sentence is not None)


def test_nods_answer_the_users_voice_after_200_to_400_ms():
    """A nod's deepest point is half its length, 6 frames, after its start: 5 to 16 frames after the stress."""
    heard = np.zeros(240, np.float32)
    stresses = [20, 60, 110, 170]
    heard[stresses] = 1
    heard = np.convolve(heard, np.hanning(7), mode="same").astype(np.float32)
    nod = nods(np.random.default_rng(0), heard, fps=24)
    for stress in stresses:
        after = nod[stress : stress + 24]
        assert after[:4].max() == 0 and after.max() > 0.1 and 5 + 4 <= after.argmax() <= 10 + 7


def test_brows_answer_half_of_the_users_stresses_after_200_to_400_ms():
    heard = np.zeros(24 * 200, np.float32)
    stresses = np.arange(20, len(heard) - 48, 48)
    heard[stresses] = 1
    heard = np.convolve(heard, np.hanning(7), mode="same").astype(np.float32)
    raised = interest(np.random.default_rng(0), heard, fps=24)
    answers = np.stack([raised[stress : stress + 48] for stress in stresses])
    answered = answers.max(axis=1) > 0
    assert 0.35 < answered.mean() < 0.65 and answers[:, :4].max() == 0
    highest = answers[answered].argmax(axis=1)
    assert highest.min() >= 5 + 5 and highest.max() <= 10 + 7
    assert not interest(np.random.default_rng(0), np.zeros(240, np.float32), fps=24).any()


def test_eyes_are_on_the_camera_just_after_the_user_begins():
    onsets = list(range(30, 24 * 100, 120))
    looks = gaze(np.random.default_rng(0), 24 * 100, fps=24, addressed=onsets)
    after = np.abs(np.stack([looks[onset + 9 : onset + 30] for onset in onsets]))
    assert after.max() < 0.2 and np.abs(looks).max() > 0.5


def test_heads_move_down_when_the_user_is_heard():
    """Over many listening clips, head pitch follows the user's energy, and best with a delay."""
    clips = [perform(seed, 96, "train") for seed in range(40)]
    clips = [clip for clip in clips if clip.user_speaking.mean() > 0.6]
    score = []
    for lag in range(0, 24, 2):
        pairs = [(energy(clip.user, samples_per_frame=1000)[: 96 - lag], -clip.pose[lag:, 1]) for clip in clips]
        score.append(np.mean([np.corrcoef(loud, pitch_down)[0, 1] for loud, pitch_down in pairs]))
    assert 8 <= 2 * int(np.argmax(score)) <= 18 and max(score) > 0.1


def test_blinks_close_fully_at_a_natural_rate():
    closure = blinks(np.random.default_rng(0), 24 * 60 * 10, onsets=[], fps=24)
    closed = (closure == 1) & (np.roll(closure, 1) < 1)
    assert 12 < closed.sum() / 10 < 20


def test_smooth_noise_is_standard_and_slow():
    noise = smooth_noise(np.random.default_rng(0), 24 * 2000, cutoff_hz=0.5, fps=24)
    power = np.square(np.abs(np.fft.rfft(noise)))
    frequency = np.fft.rfftfreq(len(noise), 1 / 24)
    assert noise.std() == pytest.approx(1, abs=0.1)
    assert power[frequency > 3].sum() < 0.01 * power.sum()


def test_pitch_recovers_a_glide_in_semitones():
    seconds = np.arange(48_000) / 24_000
    hertz = 150 * 2 ** (seconds / 2)  # one octave in two seconds
    wave = sum(np.sin(2 * np.pi * k * np.cumsum(hertz) / 24_000) / k for k in range(1, 6)).astype(np.float32)
    track = pitch(wave, samples_per_frame=1000)[2:-2]
    assert np.abs(np.diff(track) - 12 / 48).max() < 0.25


def test_splits_speak_their_own_sentences():
    for split in ("train", "val", "test"):
        clip = perform(3, NUM_FRAMES, split)
        texts = [t for t in (clip.sentence, clip.user_sentence) if t]
        for text in texts:
            for part in text.replace("?", "?|").replace(".", ".|").split("|"):
                assert not part.strip() or split_of(part.strip()) == split


def test_a_clip_without_frames_is_refused():
    with pytest.raises(ValueError, match="num_frames=0"):
        perform(0, 0, "train")
