"""A sweep's table has every member, failed ones too; its picture's front is the one that a search by hand finds."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from distill.sweep import Member, objectives, pareto, write_table
from gwm.weights import save_weights
from tests.tiny import contract, tiny_dit
from train.networks import dit_header

APP = """
import json, sys
from pathlib import Path
import hydra
from omegaconf import DictConfig

@hydra.main(version_base="1.3", config_path=None, config_name="app")
def main(cfg: DictConfig) -> None:
    if cfg.steps == 2:
        raise ValueError("steps=2 must be odd")
    Path(cfg.output).mkdir(parents=True, exist_ok=True)
    found = {"lip_sync": cfg.steps / 10, "ms_per_chunk": 10.0 * cfg.steps}
    Path(cfg.output, "measures.json").write_text(json.dumps(found))

main()
"""
CONFIG = """
steps: 1
output: ${hydra:sweep.dir}/${hydra:job.num}
hydra:
  sweep: {dir: OUT, subdir: "${hydra:job.num}"}
  callbacks:
    table: {_target_: distill.sweep.SweepTable, folder: OUT, quality: lip_sync}
"""


def test_the_front_is_what_no_other_member_beats():
    points = [(3.0, 0.5), (1.0, 0.2), (2.0, 0.6), (2.0, 0.1), (4.0, 0.6), (5.0, 0.9), (1.5, float("nan"))]

    def beaten(i: int) -> bool:
        ms, quality = points[i]
        return any(m <= ms and q >= quality and (m, q) != (ms, quality) for m, q in points)

    expected = sorted((i for i in range(6) if not beaten(i)), key=lambda i: points[i][0])
    assert pareto(points) == expected == [1, 2, 5]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_failed_member_is_a_row_with_its_error(tmp_path: Path):
    members = [
        Member(0, {"stage.sigmas": "[1.0]"}, {"lip_sync": 0.4, "ms_per_chunk": 12.0, "motion": 0.9}, ""),
        Member(1, {"stage.context": "noisy"}, {}, "ValueError: too hot"),
    ]
    write_table(tmp_path, members, quality="lip_sync")
    first, second = rows(tmp_path)
    names = ["member", "stage.sigmas", "stage.context", "finished", "lip_sync", "ms_per_chunk", "motion", "error"]
    assert list(first) == names
    assert list(first.values()) == ["0", "[1.0]", "", "True", "0.4", "12.0", "0.9", ""]
    assert list(second.values()) == ["1", "", "noisy", "False", "", "", "", "ValueError: too hot"]
    assert "too hot" in (tmp_path / "table.html").read_text()
    assert "1 members, 1 failed" in (tmp_path / "pareto.svg").read_text().replace("<!-- ", "")


def test_a_multirun_leaves_a_row_for_every_member_though_one_fails(tmp_path: Path):
    """Through Hydra itself: its callback is the only thing that sees a member fail."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "app.yaml").write_text(CONFIG.replace("OUT", str(tmp_path / "sweep")))
    command = [sys.executable, "app.py", "--config-dir", str(tmp_path), "-m", "steps=1,2,3"]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": root, "PATH": ""}, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode != 0 and "steps=2 must be odd" in done.stderr
    found = [(row["steps"], row["finished"], row["lip_sync"], row["error"]) for row in rows(tmp_path / "sweep")]
    assert found == [
        ("1", "True", "0.1", ""),
        ("2", "False", "", "ValueError: steps=2 must be odd"),
        ("3", "True", "0.3", ""),
    ]


def test_objectives_are_the_gates_measures_and_the_time_of_a_chunk(tmp_path: Path):
    save_weights(tmp_path / "weights", tiny_dit().state_dict(), dit_header(contract()))
    (tmp_path / "gate.json").write_text(json.dumps({"lip_sync": 0.25, "failed": [], "clips": 3}))
    quality, ms = objectives(str(tmp_path), names=["lip_sync", "ms_per_chunk"])
    assert quality == 0.25 and ms > 0
    kept = json.loads((tmp_path / "measures.json").read_text())
    assert kept == {"lip_sync": 0.25, "clips": 3, "ms_per_chunk": ms}
    with pytest.raises(ValueError, match=r"objectives \['sharpness'\] must be among"):
        objectives(str(tmp_path), names=["sharpness"])
