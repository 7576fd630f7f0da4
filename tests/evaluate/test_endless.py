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
from tests.tiny import RESOLUTION, contract, tiny_dit, tiny_vae, with_eyelids

FRAMES = 12  # two cases are a round of a second


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    rules = with_eyelids(contract())
    return Artifact(rules, tiny_dit(rules.dit).eval(), tiny_vae().eval())


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    rng = np.random.default_rng(0)
    made = []
    for key in ("a", "b"):
        render = rng.integers(0, 256, (FRAMES, *RESOLUTION.shape, 3), dtype=np.uint8)
        agent, user = rng.normal(0, 0.1, (2, 1000 * FRAMES)).astype(np.float32)
        voices = Voices(agent=agent, user=user, listening=np.zeros(FRAMES, bool))
        made.append(
            Case(key=key, style="anny", person=key, reference=render[0], render=render, mouth=None, voices=voices)
        )
    return made


def test_a_stream_that_is_taken_up_again_shows_the_same_to_the_bit(artifact, cases, tmp_path):
    """Beyond window and horizon, where sinks are turned, and with a blink to come; the state goes through a file."""
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
    how = {"seed": 0, "length_s": KEPT_LOOKS + 3, "every_s": 1}  # rounds last a second
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

    def __init__(self, round_chunks: int) -> None:
        self.round_chunks = round_chunks

    def __next__(self) -> np.ndarray:
        self.chunks += 1
        return np.full((4, 2, 2, 3), (self.chunks - 1) % 251, np.uint8)


@pytest.mark.usefixtures("unchecked")
def test_the_same_second_of_every_round_is_looked_at():
    """Rounds of 8 s, looked at in seconds 1 and 6: every fifth second would be other words in every round."""
    seen = list(looks(Numbered(48), SimpleNamespace(chunk_ms=1000 / 6), length_s=40, every_s=5))
    assert [round(at) for at, *_ in seen] == [1, 6, 9, 14, 17, 22, 25, 30, 33, 38]
    assert [minute for _, minute, _ in seen] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [len(frames) for *_, frames in seen] == [24] * 10
    assert [frames[::4, 0, 0, 0].tolist() for *_, frames in seen][3] == [78, 79, 80, 81, 82, 83]


@pytest.mark.usefixtures("unchecked")
def test_a_minute_is_whole_rounds():
    """50 of 48 s in 40 minutes; of rounds of 25 s two."""
    for round_chunks, minutes in ((288, 50), (150, 48)):
        seen = list(looks(Numbered(round_chunks), SimpleNamespace(chunk_ms=1000 / 6), length_s=2400, every_s=10))
        assert seen[-1][1] == minutes - 1
    with pytest.raises(ValueError, match="long_s=40 must be at least 96"):
        next(looks(Numbered(288), SimpleNamespace(chunk_ms=1000 / 6), length_s=40, every_s=10))


@pytest.mark.usefixtures("unchecked")
def test_a_face_that_is_gone_is_nobodys(monkeypatch):
    """Left out of the mean, a stream that loses its face would keep its identity."""
    judge = SimpleNamespace(embedding=lambda image: np.zeros(128) if image.any() else None)
    frames = np.zeros((24, 8, 8, 3), np.uint8)
    frames[:12] = 90
    assert endless.look(frames, frames[0], judge, chunk_frames=4)["identity"] == 0.5


def test_a_drift_is_the_farthest_minutes():
    """Also one that came back; what is cut off at the end is other words, and no minute."""
    minute = np.array([0.0, 0, 1, 1, 2, 2, 3])
    series = {"seconds": np.arange(7.0), "minute": minute, "motion energy": np.ones(7)}
    series["saturation"] = np.array([0.4, 0.6, 0.5, 0.4, 0.5, 0.51, 9.0])
    series["identity"] = np.array([1.0, np.nan, 1, 1, 1.2, 1.0, 9.0])
    expected = {"saturation_drift": pytest.approx(-0.1), "identity_drift": pytest.approx(0.1), "motion_drift": 0.0}
    assert drifts(series) == expected
    assert drifts({}) == {}


def test_motion_is_compared_in_halves():
    assert drifts({"motion energy": np.array([1.0, 9, 2, 3, 6, 5, 4, 3])}) == {
        "motion_drift": pytest.approx(18 / 15 - 1)
    }
