"""Curves of the report come from the logs that runs leave."""

import json
from pathlib import Path

import numpy as np

from evaluate.rules import Verdict
from evaluate.sections import gates_table, logged, losses, metrics_table, training_sections
from gwm.report.line_chart import Line
from gwm.report.page import Curves, Table


def test_losses_and_health_of_a_run_are_drawn(tmp_path: Path):
    (tmp_path / "dmd" / "logs" / "version_0").mkdir(parents=True)
    (tmp_path / "dmd" / "gate.json").write_text(json.dumps({"clips": 2}))
    log = "step,train/critic_loss,health/critic_lag,health/val_lip_sync\n0,,,0.25\n0,1.5,0.9,\n1,1.25,0.8,\n"
    (tmp_path / "dmd" / "logs" / "version_0" / "metrics.csv").write_text(log)
    _, _, losses, health = training_sections(tmp_path)
    assert isinstance(losses, Curves) and isinstance(health, Curves)
    assert list(losses.charts["dmd"]) == ["train/critic_loss"]
    assert set(health.charts) == {"critic_lag", "val_lip_sync"} and health.folded
    lag = health.charts["critic_lag"]["dmd"]
    assert (list(lag.x), list(lag.y)) == ([0, 1], [0.9, 0.8])


def test_without_a_distillation_there_is_no_health(tmp_path: Path):
    assert len(training_sections(tmp_path)) == 3


def test_gates_of_stages_are_shown_in_the_order_of_the_chain_with_their_rules(tmp_path: Path):
    rule = "blinks_likeness=0.500 must be >= 0.700"
    gates = {
        "long": {"lip_sync": 0.75, "listeners": 3, "failed": [rule], "undecided": [], "not_measured": ["answer_sure"]},
        "causal": {"lip_sync": 0.5, "failed": [], "undecided": ["a", "b"], "not_measured": ["c"]},
        "dmd": {"failed": [], "undecided": [], "not_measured": ["c"]},
        "bidirectional": {"failed": [], "undecided": []},
    }
    for stage, gate in gates.items():
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "gate.json").write_text(json.dumps(gate))
    outcomes, measures, _ = training_sections(tmp_path)
    assert isinstance(outcomes, Table) and isinstance(measures, Table)
    assert list(outcomes.columns) == ["stage", "gate", "failed", "undecided", "not_measured"]
    assert outcomes.rows == [
        ["bidirectional", True, "", "", ""],
        ["causal", "undecided", "", "a; b", "c"],
        ["dmd", "not measured", "", "", "c"],
        ["long", False, rule, "", "answer_sure"],
    ]
    assert list(measures.columns) == ["measure", "bidirectional", "causal", "dmd", "long"]
    assert measures.rows == [["lip_sync", None, 0.5, None, 0.75], ["listeners", None, None, None, 3]]


def test_a_resumed_run_is_one_curve(tmp_path: Path):
    """What the first part did after the step from which the second went on was thrown away with it. Part ten is the
    last, not the second."""
    for version, rows in ((0, "0,5\n10,4\n20,3\n"), (9, "20,2.5\n30,2\n"), (10, "30,1.5\n40,1\n")):
        folder = tmp_path / "logs" / f"version_{version}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text("step,train/loss\n" + rows)
    line = logged(tmp_path)["train/loss"]
    assert (line.x.tolist(), line.y.tolist()) == ([0, 10, 20, 30, 40], [5, 4, 2.5, 1.5, 1])


def test_one_loss_of_a_batch_is_drawn():
    """Of a batch in several passes `train/loss` is the last pass's; of one pass both are equal."""

    def drawn(*names: str) -> list[str]:
        return list(losses({name: Line(np.zeros(1), np.zeros(1)) for name in names}))

    assert drawn("train/loss", "train/batch_loss", "train/psnr") == ["train/batch_loss"]
    assert drawn("train/student_loss", "train/critic_loss") == ["train/student_loss", "train/critic_loss"]


def test_gates_are_shown_with_what_is_asked_and_the_ceiling():
    facts = {"measure": "identity", "rule": ">= 0.9", "number": 0.6, "floor": 0.4, "ceiling": 0.8, "share": 0.5}
    table = gates_table([Verdict(**facts, reached=False)])
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row == {
        "measure": "identity", "rule": ">= 0.9", "reached": False, "number": 0.6, "floor": 0.4, "ceiling": 0.8,
        "share": 0.5,
    }  # fmt: skip


def test_a_skipped_metric_is_named_with_its_command_and_is_no_number():
    interval = {"mean": 30.0, "low": 29.0, "high": 31.0, "count": 4}
    report = {
        "intervals": {"model": {"psnr": interval}},
        "renders": {"psnr": 50.0},
        "frechet": {"fid": 3.0},
        "clips": 4,
    }
    report |= {"frechet_floor": {"fid": 2.4}}
    trust = {"auc": 0.9963, "auc_window": 0.9268, "clips": 14}
    table = metrics_table(report | {"skipped": {"identity": "pip install dlib-bin"}, "sync_network": trust})
    assert [(row[0], row[1], row[4]) for row in table.rows] == [("psnr", 30.0, 50.0), ("fid", 3.0, 2.4)]
    assert "identity skipped: pip install dlib-bin. " in table.note
    assert "AUC 0.996 by clips of 14 unseen people, 0.927 by windows" in table.note
    assert "AUC" not in metrics_table(report | {"skipped": {"sync_confidence": "train"}, "sync_network": {}}).note
