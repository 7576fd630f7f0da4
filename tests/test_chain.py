"""The whole way, in one command each: data, every stage, evaluation. Two steps a stage: only the joints are tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gwm.media.video import read_audio, read_video
from serve.samples import sample_path

ROOT = Path(__file__).parents[1]
STAGES = ("autoencoder", "bidirectional", "causal", "consistency", "dmd", "export")


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
        "trainer.max_steps=2",
        "checkpoint.every_n_train_steps=1",
    )
    for stage in STAGES[:-1]:
        gate = json.loads((runs / stage / "gate.json").read_text())
        assert 0 <= gate["faces_found"] <= 1
        assert gate == json.loads((runs / stage / "weights" / "config.json").read_text())["gate"]
    command("evaluate.py", f"artifact={runs}/artifact", f"shards={shards}", f"runs={runs}", f"out={runs}", "clips=1")
    report = json.loads((runs / "report.json").read_text())
    assert report["renders"]["psnr"] > 50 > report["model"]["psnr"]
    assert "<img" in (runs / "report.html").read_text()
    clip = runs / "talk.mp4"
    portrait, speech = (str(sample_path(name)) for name in ("portrait", "speech"))
    command("-m", "serve.generate", f"artifact={runs}/artifact", f"image={portrait}", f"audio={speech}", f"out={clip}")
    frames, fps = read_video(clip)
    assert fps == 24
    assert abs(len(frames) - len(read_audio(clip)) / 1000) < 1.1  # AAC pads its last frame


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
