"""A stream of minutes is looked at now and then, and one that was killed goes on as if it had not been."""

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from evaluate import endless
from evaluate.cases import Case
from evaluate.endless import KEPT_LOOKS, Stream, drifts, hold, looks
from evaluate.examine import load_arrays, save_arrays
from gwm.metrics.judge import Voices
from serve.artifact import Artifact
from tests.tiny import contract, tiny_dit, tiny_vae

SIDE, FRAMES = 32, 12


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return Artifact(contract(), tiny_dit().eval(), tiny_vae().eval())


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    rng = np.random.default_rng(0)
    made = []
    for key in ("a", "b"):
        render = rng.integers(0, 256, (FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
        agent, user = rng.normal(0, 0.1, (2, 1000 * FRAMES)).astype(np.float32)
        voices = Voices(agent=agent, user=user, listening=np.zeros(FRAMES, bool))
        made.append(Case(key=key, style="anny", reference=render[0], render=render, mouth=None, voices=voices))
    return made


def test_a_stream_that_is_taken_up_again_shows_the_same_to_the_bit(artifact, cases, tmp_path):
    """Beyond window and horizon, where sinks are turned; the state goes through a file."""
    whole = Stream(artifact, cases, seed=3)
    expected = [next(whole) for _ in range(16)]
    first = Stream(artifact, cases, seed=3)
    for _ in range(10):
        next(first)
    save_arrays(tmp_path / "state.npz", first.state())
    second = Stream(artifact, cases, seed=3)
    second.resume(load_arrays(tmp_path / "state.npz") or {})
    assert second.chunks == 10
    for frames in expected[10:]:
        assert np.array_equal(next(second), frames)


@pytest.mark.usefixtures("unchecked")
def test_a_killed_evaluation_of_a_stream_goes_on_from_what_is_kept(artifact, cases, tmp_path, monkeypatch):
    seen: list[float] = []

    def look(frames, *_, **__) -> dict[str, float]:
        seen.append(float(frames.mean()))
        if len(seen) == KEPT_LOOKS + 2:
            raise KeyboardInterrupt
        return {"saturation": seen[-1]}

    monkeypatch.setattr(endless, "look", look)
    how = {"seed": 0, "length_s": KEPT_LOOKS + 3, "every_s": 1}
    with pytest.raises(KeyboardInterrupt):
        hold(artifact, cases, SimpleNamespace(), **how, kept=tmp_path / "stream.npz")
    series = hold(artifact, cases, SimpleNamespace(), **how, kept=tmp_path / "stream.npz")
    assert len(seen) == (KEPT_LOOKS + 2) + 3  # the last three seconds alone are made again
    whole = hold(artifact, cases, SimpleNamespace(), **how, kept=tmp_path / "other.npz")
    assert series["seconds"].tolist() == pytest.approx(range(1, KEPT_LOOKS + 4))
    assert {name: values.tolist() for name, values in series.items()} == {k: v.tolist() for k, v in whole.items()}


class Numbered(Iterator):
    """A stream whose chunks show their number."""

    chunks = 0

    def __next__(self) -> np.ndarray:
        self.chunks += 1
        return np.full((4, 2, 2, 3), self.chunks - 1, np.uint8)


@pytest.mark.usefixtures("unchecked")
def test_one_second_in_ten_is_looked_at():
    seen = list(looks(Numbered(), SimpleNamespace(chunk_ms=1000 / 6), length_s=21, every_s=10))
    assert [round(at) for at, _ in seen] == [1, 11, 21]
    assert [len(frames) for _, frames in seen] == [24] * 3
    assert [frames[::4, 0, 0, 0].tolist() for _, frames in seen][1] == [60, 61, 62, 63, 64, 65]


@pytest.mark.usefixtures("unchecked")
def test_a_face_that_is_gone_is_nobodys(monkeypatch):
    """Left out of the mean, a stream that loses its face would keep its identity."""
    judge = SimpleNamespace(embedding=lambda image: np.zeros(128) if image.any() else None)
    frames = np.zeros((24, 8, 8, 3), np.uint8)
    frames[:12] = 90
    assert endless.look(frames, frames[0], judge, chunk_frames=4)["identity"] == 0.5


def test_drifts_are_shares_of_the_beginning():
    series = {"seconds": np.arange(1.0, 6), "saturation": np.array([0.5, 1, 1, 1, 0.6]), "motion energy": np.ones(5)}
    assert drifts(series) == {"saturation_drift": pytest.approx(0.2)}
    long = np.linspace(10, 2400, 240)  # 40 minutes: the last minute against the first
    assert drifts({"seconds": long, "exposure": 1 + long / 2400})["exposure_drift"] == pytest.approx(0.965, abs=0.01)
    assert drifts({}) == {}


@pytest.mark.usefixtures("unchecked")
def test_a_stream_too_short_to_drift_is_refused(artifact, cases, tmp_path):
    with pytest.raises(ValueError, match="long_s=40"):
        hold(artifact, cases, SimpleNamespace(), seed=0, length_s=40, every_s=10, kept=tmp_path / "stream.npz")
