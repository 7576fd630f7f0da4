"""The whole way, in one command each: data, every stage, evaluation. Two steps a stage: only the joints are tested."""

import html
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.worlds.maze import NAMES
from gwm.contract import Contract
from gwm.media.video import read_audio, read_video
from serve.artifact import PLACES, read_manifest
from serve.live.characters import read_places
from serve.samples import sample_path

ROOT = Path(__file__).parents[1]
STAGES = ("autoencoder", "bidirectional", "causal", "consistency", "dmd", "export")
SHORT = ("trainer.max_steps=2", "checkpoint.every_n_train_steps=1")


def command(*arguments: str) -> str:
    """Run a command of the project; its output."""
    environment = os.environ | {"HYDRA_FULL_ERROR": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_chain_runs_from_nothing_to_a_clip(tmp_path: Path):
    shards, runs = tmp_path / "shards", tmp_path / "runs"
    command("-m", "data.characters", f"out={shards}", "train=3", "val=2", "test=2", "workers=1", "anny_share=1")
    command(
        "train.py",
        "-m",
        f"stage={','.join(STAGES)}",
        f"runs={runs}",
        f"shards={shards}",
        *SHORT,
    )
    for stage in STAGES[:-1]:
        gate = json.loads((runs / stage / "gate.json").read_text())
        assert 0 <= gate["faces_found"] <= 1
        assert gate == json.loads((runs / stage / "weights" / "config.json").read_text())["gate"]
    command("evaluate.py", f"artifact={runs}/artifact", f"shards={shards}", f"runs={runs}", f"out={runs}", "clips=1")
    report = json.loads((runs / "report.json").read_text())
    assert report["renders"]["psnr"] > 50 > report["model"]["psnr"]
    assert "<img" in (runs / "report.html").read_text()
    assert talk(runs)[0].shape == (128, 128, 3)


def talk(runs: Path) -> list[np.ndarray]:
    """Frames of the clip that the chain's artifact makes, which are as many as its sound is long."""
    clip = runs / "talk.mp4"
    portrait, speech = (str(sample_path(name)) for name in ("portrait", "speech"))
    command("-m", "serve.generate", f"artifact={runs}/artifact", f"image={portrait}", f"audio={speech}", f"out={clip}")
    frames, fps = read_video(clip)
    assert fps == 24
    assert abs(len(frames) - len(read_audio(clip)) / 1000) < 1.1  # AAC pads its last frame
    return list(frames)


@pytest.mark.acceptance
def test_the_chain_of_motion_latents_runs_from_nothing_to_a_clip(tmp_path: Path):
    """What make run does: nothing is rendered for training, and every stage's gate is in the report."""
    shards, runs = tmp_path / "shards", tmp_path / "runs"
    stages = f"stage={','.join(STAGES[1:])}"
    command("train.py", "-m", stages, "experiment=nano_motion", f"runs={runs}", "finish.people=2", *SHORT)
    assert not shards.exists()
    people = ("resolution=256", "num_frames=48", "train=0", "val=0", "test=2", "workers=1", "anny_share=1")
    command("-m", "data.characters", f"out={shards}", *people)
    brief = ("clips=1", "listeners=0", "drawn=0", "seeds=1", "speed_runs=1")
    command("evaluate.py", f"artifact={runs}/artifact", f"shards={shards}", f"runs={runs}", f"out={runs}", *brief)
    page = (runs / "report.html").read_text()
    assert json.loads((runs / "report.json").read_text())["model"]["identity"] > 0.6
    for stage in STAGES[1:-1]:
        gate = json.loads((runs / stage / "gate.json").read_text())
        assert gate["clips"] == 2 and gate["failed"], "two steps teach nothing"
        assert all(html.escape(rule) in page for rule in gate["failed"])
    assert talk(runs)[0].shape == (512, 512, 3)


@pytest.mark.acceptance
def test_the_chain_of_a_world_runs_from_nothing_to_places_to_walk_from(tmp_path: Path):
    """docs/worlds.md in small: every stage that takes actions is judged by them."""
    shards, runs = tmp_path / "shards", tmp_path / "runs"
    command("-m", "data.worlds", "env=maze", f"out={shards}", "train=2", "val=2", "test=1", "workers=1")
    stages = f"stage={','.join(STAGES)}"
    command("train.py", "-m", stages, "experiment=world_nano", f"runs={runs}", f"shards={shards}", *SHORT)
    for stage in STAGES[:-1]:
        gate = json.loads((runs / stage / "gate.json").read_text())
        assert gate["clips"] == 2 and gate["not_measured"] == [] and gate["psnr"] > 0
        assert ("obeys_db" in gate) == (stage != "autoencoder")
    contract = Contract.from_json(read_manifest(runs / "artifact")["contract"])
    assert not contract.takes_sound and [control.name for control in contract.controls] == list(NAMES)
    assert list(read_places(runs / "artifact" / PLACES, contract.framing(None))) == ["place-1"]


@pytest.mark.acceptance
def test_a_robots_chain_ends_with_streams_that_are_drawn_to_what_happened(tmp_path: Path):
    """docs/worlds.md in small, with the second recording of longer clips."""
    runs, shards, longer = (tmp_path / name for name in ("runs", "shards", "longer"))
    few = ("env=arm", "train=2", "val=2", "test=1", "workers=1", "resolution=64")
    command("-m", "data.worlds", f"out={shards}", *few)
    command("-m", "data.worlds", f"out={longer}", *few, "num_frames=96", "seed=1")
    of_arm = ("experiment=robot_nano", f"runs={runs}")
    stages = ("autoencoder", "bidirectional", "causal", "consistency", "regression")
    command("train.py", "-m", f"stage={','.join(stages)}", f"shards={shards}", *of_arm, *SHORT)
    go_on = (f"init={runs}/regression/weights", f"finish.before={runs}/regression", "num_frames=24")
    folders = (f"shards={longer}", f"data.latents={runs}/latents_longer", f"output={runs}/longer")
    command("train.py", "stage=regression", *folders, *go_on, *of_arm, *SHORT)
    for stage in (*stages, "longer"):
        gate = json.loads((runs / stage / "gate.json").read_text())
        assert gate["clips"] == 2 and gate["not_measured"] == [] and gate["psnr"] > 0
    command("train.py", "stage=export", f"init={runs}/longer/weights", f"shards={shards}", *of_arm)
    assert not Contract.from_json(read_manifest(runs / "artifact")["contract"]).takes_sound


def test_missing_input_names_the_command(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "train.py", "stage=causal", f"runs={tmp_path}/mine"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode != 0
    assert "python train.py stage=bidirectional name=mine" in done.stderr
