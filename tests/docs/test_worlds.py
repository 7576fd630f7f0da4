"""The Python of docs/worlds.md runs as it is printed, on a model of random weights."""

import re
from pathlib import Path

import pytest

from gwm.outcome import FOLDER
from tests.maze import maze_artifact, maze_shards
from train.outcome import train_outcome

PAGE = (Path(__file__).parents[2] / "docs" / "worlds.md").read_text()


def test_the_printed_example_of_the_simulator_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("gymnasium")
    made = maze_artifact(tmp_path)
    train_outcome(
        made, maze_shards(tmp_path / "s", num_frames=8), made / FOLDER, clips=4, steps=1, batch_size=8, seed=0
    )
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "maze").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    found: dict[str, object] = {}
    exec(example, found)
    assert isinstance(found["reward"], float) and found["truncated"] is False
