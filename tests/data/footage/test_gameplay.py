"""Recorded gameplay, a video and a table of actions, becomes shards in which each frame has its own action."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from data.footage.takes import TakeRules
from data.ingest import ingest
from data.manifest import read_manifest
from data.shards import CONTINUES, decode_sample, read_samples
from gwm.clock import FPS
from gwm.resolution import Resolution

ACTIONS = {"jump": "discrete", "turn": "continuous"}
LEVELS = np.linspace(-1, 1, 9)


def rules(**changes: Any) -> TakeRules:
    options: dict[str, Any] = {
        "resolution": Resolution(32, 32), "num_frames": 16, "face": "off", "look_every_s": 0.25, "reference_gap": 12,
        "max_enlargement": 2.0, "actions": ACTIONS,
    }  # fmt: skip
    return TakeRules(**(options | changes))


def record_game(folder: Path, *, fps: int = FPS, lag_frames: int = 0, seconds: int = 4) -> None:
    """A game whose picture shows its actions as numbers: one square is as bright as `turn`, one as `jump`. Beside it a
    table with the moments at which they changed."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    wall = np.kron(rng.integers(60, 200, (8, 8, 1), dtype=np.uint8), np.ones((8, 8, 3), np.uint8))
    shown = [np.zeros(2)] * lag_frames
    rows, now = ["time_s,turn,jump,fps_of_the_game"], np.zeros(2)
    for frame in range(seconds * fps):
        if frame % 3 == 0:
            now = np.array([rng.choice(LEVELS), rng.integers(2)])
            rows.append(f"{frame / fps:.5f},{now[0]:.3f},{now[1]:.0f},60")
        shown.append(now)
    (folder / "play.csv").write_text("\n".join(rows) + "\n")
    with av.open(str(folder / "play.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=fps, options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 64, 64, "yuv444p", Fraction(1, fps)
        for turn, jump in shown[: seconds * fps]:
            picture = wall.copy()
            picture[8:24, 8:24], picture[8:24, 40:56] = round(40 + 80 * (turn + 1)), round(60 + 120 * jump)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def made(folder: Path, **changes: Any) -> Any:
    out = folder.with_name(f"{folder.name}_shards")
    report = ingest(folder, out, rules(**changes), val=0.0, test=0.0, seed=0, videos_per_shard=4, workers=1)
    return out, report


def off(out: Path) -> dict[int, float]:
    """How far actions are from what the pictures show, if they came so many frames earlier or later."""
    clips = [decode_sample(sample) for sample in read_samples(out, "train")]
    shown = [(clip.frames[:, 6:10, 6:10].mean((1, 2, 3)) - 40) / 80 - 1 for clip in clips]
    return {
        shift: float(
            np.mean([np.abs(np.roll(s, shift) - c.signals["action"][:, 1])[2:-2].mean() for s, c in zip(shown, clips)])
        )
        for shift in (-1, 0, 1)
    }


@pytest.mark.parametrize(("fps", "lag"), [(24, 0), (60, 0), (24, 2)])
def test_a_frame_has_the_action_that_it_shows(tmp_path: Path, fps: int, lag: int):
    """Off by one is seen."""
    record_game(tmp_path / "game", fps=fps, lag_frames=lag)
    out, report = made(tmp_path / "game", lag_s=lag / FPS)
    found = off(out)
    assert report["clips"] >= 3
    assert found[0] < 0.1 and found[0] < 0.4 * min(found[-1], found[1]), found


def test_clips_follow_one_another_without_sound_and_declare_their_actions(tmp_path: Path):
    record_game(tmp_path / "game")
    out, _ = made(tmp_path / "game")
    clips = sorted((decode_sample(s) for s in read_samples(out, "train")), key=lambda clip: clip.info["start_s"])
    assert all(clip.agent is None and clip.info[CONTINUES] for clip in clips)
    assert clips[0].info["start_s"] == pytest.approx(1 / FPS, abs=1e-3)
    for before, after in pairwise(clips):  # the reference is the picture right before
        apart = np.abs(after.reference.astype(int) - before.frames[-1].astype(int)).mean()
        assert apart < 6
    declared = read_manifest(out).generator["conditions"]["action"]
    assert (declared["names"], declared["kinds"]) == (["jump", "turn"], ["discrete", "continuous"])
    assert "names: [jump, turn]" in (out / "condition.yaml").read_text()
    assert (out / "coverage.json").is_file() and (out / "places" / "place-1.png").is_file()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (None, "no_actions"),
        ("time_s,turn\n0,0\n", "must have the columns jump"),
        ("time_s,turn,jump\n0,0,2\n", "jump=2 must be 0 or 1"),
        ("time_s,turn,jump\n0,1.5,1\n", "turn=1.5 must be in [-1, 1]"),
        ("time_s,turn,jump\n0,nan,1\n", "finite"),
        ("time_s,turn,jump\n1,0,1\n0,0,1\n", "must rise"),
        ("turn,jump\n0,1\n", "of which the first is time_s"),
        ("time_s,turn,jump\n0,left,1\n", "must hold numbers"),
        ("time_s,turn,jump\n0,1\n", "must have 3 numbers in each row"),
        ("time_s,turn,jump\n", "must have a row for each moment"),
    ],
)
def test_a_table_that_cannot_be_used_is_reported_in_words(tmp_path: Path, table: str | None, words: str):
    record_game(tmp_path / "game", seconds=1)
    path = tmp_path / "game" / "play.csv"
    path.unlink() if table is None else path.write_text(table)
    _, report = made(tmp_path / "game")
    assert report["clips"] == 0
    reason = report["files_without_clip"]["play.mp4"]
    assert words in (reason if words != "no_actions" else report["dropped"])


def test_settings_that_make_no_gameplay_are_refused():
    with pytest.raises(ValueError, match="must have face=off"):
        rules(face="prefer")
    with pytest.raises(ValueError, match=r"actions.jump='key' must be one of continuous, discrete, pointer"):
        rules(actions={"jump": "key"})
    with pytest.raises(ValueError, match=r"lag_s=2 must be in \[0, 1\)"):
        rules(lag_s=2)
