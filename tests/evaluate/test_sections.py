"""Curves of the report come from the logs that runs leave."""

import json
from pathlib import Path

from evaluate.sections import training_sections
from gwm.report import Curves


def test_losses_and_health_of_a_run_are_drawn(tmp_path: Path):
    (tmp_path / "dmd" / "logs" / "version_0").mkdir(parents=True)
    (tmp_path / "dmd" / "gate.json").write_text(json.dumps({"clips": 2}))
    log = "step,train/critic_loss,health/critic_lag,health/val_lip_sync\n0,,,0.25\n0,1.5,0.9,\n1,1.25,0.8,\n"
    (tmp_path / "dmd" / "logs" / "version_0" / "metrics.csv").write_text(log)
    _, losses, health = training_sections(tmp_path)
    assert isinstance(losses, Curves) and isinstance(health, Curves)
    assert list(losses.charts["dmd"]) == ["train/critic_loss"]
    assert set(health.charts) == {"critic_lag", "val_lip_sync"}
    lag = health.charts["critic_lag"]["dmd"]
    assert (list(lag.x), list(lag.y)) == ([0, 1], [0.9, 0.8])


def test_without_a_distillation_there_is_no_health(tmp_path: Path):
    assert len(training_sections(tmp_path)) == 2
