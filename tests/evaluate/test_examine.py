"""Clips are chosen, played, measured once and kept."""

from types import SimpleNamespace

import numpy as np
import pytest

import evaluate.examine as examining
from evaluate.cases import Case, case_of
from evaluate.examine import Result, examine, load_result, save_arrays, work_folder
from evaluate.recording import at_24_fps
from gwm.metrics.judge import Voices
from tests.gwm.test_metrics import noisy

pytestmark = pytest.mark.usefixtures("unchecked")  # artifact, judge and clips are stand-ins

FRAMES = 48


def case(key: str = "a", *, listening: bool = False, seed: int = 0) -> Case:
    rng = np.random.default_rng(seed)
    render = rng.integers(0, 256, (FRAMES, 16, 16, 3), dtype=np.uint8)
    sound = rng.normal(0, 0.1, 1000 * FRAMES).astype(np.float32)
    voices = Voices(agent=sound, user=-sound, listening=np.full(FRAMES, listening))
    mouth = np.zeros(FRAMES, np.float32)
    return Case(key=key, style="anny", person=key, reference=render[0], render=render, mouth=mouth, voices=voices)


class Judged:
    """Measures the mean of the pixels, and hears the first sample."""

    perceptual, skipped = None, {}

    def __call__(self, frames, **_):
        return {"psnr": float(frames.mean())}, np.zeros(len(frames))

    def answer(self, frames, user, listening):
        return float(frames[0, 0, 0, 0]) + float(user[0])


ARTIFACT = SimpleNamespace(contract=SimpleNamespace(chunk_pixel_frames=4, chunk_ms=1000 / 6))


@pytest.fixture
def played(monkeypatch) -> list[tuple[int, float]]:
    """Seeds and first samples of the users' voices of all that is played."""
    calls = []

    def play(artifact, case, *, seed, user=None):
        calls.append((seed, float((case.voices.user if user is None else user)[0])))
        return noisy(case.render, 5 + seed), [1.0]

    monkeypatch.setattr(examining, "play", play)
    return calls


def test_footage_is_not_taken_for_a_drawing():
    clip = SimpleNamespace(
        key="a", frames=np.zeros((2, 4, 4, 3), np.uint8), reference=np.zeros((4, 4, 3), np.uint8), truth=None,
        voices=(np.zeros(2000), np.zeros(2000)), info={"style": "footage"}, person="a",
    )  # fmt: skip
    filmed = case_of(clip)
    assert filmed.footage and not filmed.drawn and not filmed.speaks


def test_a_clip_is_played_with_every_seed_and_with_another_user(played):
    listener, other = case(listening=True), case(seed=1).voices.user
    result = examine(ARTIFACT, listener, Judged(), seed=3, seeds=2, other_user=other)
    own = float(listener.voices.user[0])
    assert played == [(3, pytest.approx(own)), (4, pytest.approx(own)), (3, pytest.approx(float(other[0])))]
    assert result.rows["model"]["psnr"] == result.frames.mean()
    assert result.rows["renders"]["psnr"] == listener.render.mean()
    assert result.rows["model"]["seed_diversity"] > 0.5  # noise of other strengths
    # The model heard the other user, and is held against its own; the render heard its own, and against the other.
    shuffled = {side: row["user_response_shuffled"] for side, row in result.rows.items()}
    assert shuffled["model"] % 1 == pytest.approx(own % 1, abs=1e-5)
    assert shuffled["renders"] == pytest.approx(float(listener.render[0, 0, 0, 0]) + float(other[0]))


def test_who_does_not_listen_is_not_played_again(played):
    result = examine(ARTIFACT, case(), Judged(), seed=0, seeds=1, other_user=np.zeros(9, np.float32))
    assert len(played) == 1
    assert not {"user_response_shuffled", "seed_diversity"} & set(result.rows["model"])


def test_a_result_is_read_as_it_was_written(played, tmp_path):
    result = examine(ARTIFACT, case(), Judged(), seed=0, seeds=2, other_user=np.zeros(9, np.float32))
    result.save(tmp_path / "a.npz")
    again = load_result(tmp_path / "a.npz")
    assert isinstance(again, Result)
    assert (again.key, again.style, again.rows) == (result.key, result.style, result.rows)
    assert np.array_equal(again.frames, result.frames)
    assert np.array_equal(again.curves["renders"]["motion energy"], result.curves["renders"]["motion energy"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_a_damaged_result_is_measured_again(tmp_path):
    assert load_result(tmp_path / "none.npz") is None
    save_arrays(tmp_path / "a.npz", {"x": np.zeros(3)})
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: len(whole) // 2])
    assert load_result(tmp_path / "a.npz") is None


def test_results_of_other_models_and_settings_do_not_meet(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(name)

    def folder(artifact: str, **settings: int):
        return work_folder(tmp_path, tmp_path / artifact, tmp_path / "shards", Judged(), tmp_path / "sync", settings)

    folders = [folder("one", seed=0), folder("two", seed=0), folder("one", seed=1), folder("one", seed=0)]
    assert len(set(folders)) == 3
    assert folders[0] == folders[3]


def test_listening_is_where_only_the_user_speaks_and_the_mouth_is_shut():
    truth = SimpleNamespace(
        agent_speaking=np.array([True, False, False, False]),
        user_speaking=np.array([True, True, True, False]),
        mouth=np.array([0.0, 0.0, 0.3, 0.0]),
    )
    pixels, sound = np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4000, np.float32)
    facts = {
        "key": "k",
        "person": "p",
        "reference": pixels[0],
        "frames": pixels,
        "mouth": truth.mouth,
        "voices": (sound, sound),
    }
    clip = SimpleNamespace(truth=truth, info={"style": "clay", "identity": "p"}, **facts)
    assert case_of(clip).voices.listening.tolist() == [False, True, False, False]
    assert case_of(clip).mouth is None
    assert case_of(SimpleNamespace(truth=truth, info={"style": "anny", "identity": "p"}, **facts)).mouth is truth.mouth


def test_real_footage_has_no_truth():
    pixels, sound = np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4000, np.float32)
    clip = SimpleNamespace(
        truth=None,
        key="k",
        info={"style": "footage", "identity": "p"},
        person="p",
        reference=pixels[0],
        frames=pixels,
        voices=(sound, sound),
    )
    assert case_of(clip).mouth is None
    assert not case_of(clip).voices.listening.any()


def test_other_frame_rates_keep_their_time():
    frames = np.arange(60, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    assert at_24_fps(frames[:24], 24.0)[:, 0, 0, 0].tolist() == list(range(24))
    slow = at_24_fps(frames[:60], 60.0)[:, 0, 0, 0]
    assert len(slow) == 24
    assert np.abs(slow - (np.arange(24) + 0.5) * 2.5).max() <= 1
