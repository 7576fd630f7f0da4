import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gwm.chunks import ChunkPattern
from tests.tiny import VAE_SHAPE, contract
from train.gate import border_frames, earlier_gate, failures, save_then_judge
from train.network import dit_facts, require


def test_a_gate_names_what_it_misses():
    gate = {"lip_sync": 0.5, "lip_sync_error": 0.1, "motion": 0.9, "lip_sync_of_ceiling": 0.6}
    before = {"lip_sync": 0.6, "motion": 1.0}
    least = {"lip_sync_of_ceiling": 0.95, "lip_sync_of_before": 0.9, "motion_of_before": 0.7}
    missed = failures(gate, least, before)
    assert missed == ["lip_sync_of_ceiling=0.600 must be >= 0.950", "lip_sync=0.500 +- 0.100 must be >= 0.540"]


def test_a_metric_that_was_skipped_fails_nothing():
    assert failures({}, {"identity_of_before": 0.95}, {"identity": 0.5}) == []


def test_a_lip_sync_that_swapped_voices_leave_was_never_there():
    assert failures({"lip_sync": 0.4, "lip_sync_swapped": 0.19}, {}, {}) == []
    (missed,) = failures({"lip_sync": 0.4, "lip_sync_swapped": 0.21}, {}, {})
    assert missed == "lip_sync_swapped=0.210 must be <= 0.200, half of it with the own voice"


def test_borders_are_where_the_contract_has_chunks():
    chunk_of_three = ChunkPattern(chunk_frames=3, window_chunks=4, sink_chunks=1, first_frames=1)
    facts = dit_facts(contract(pattern=chunk_of_three))
    assert border_frames(facts, 48) == 12
    assert border_frames(facts, 12) == 4  # all of the clip is one chunk: a bidirectional model
    assert border_frames({"kind": "vae", "config": VAE_SHAPE.to_json()}, 48) == 4


def saved(folder: Path, judge: Any) -> None:
    weights = {"w": torch.ones(2)}
    save_then_judge(folder, weights, judge, least={"lip_sync": 0.5}, before={}, kind="dit", config={})


def dying() -> dict[str, Any]:
    raise RuntimeError("the face mesh is gone")


def killed() -> dict[str, Any]:
    raise KeyboardInterrupt


def test_a_judgement_that_dies_costs_no_weights_and_is_reported(tmp_path: Path, caplog):
    saved(tmp_path, dying)
    assert load_file(tmp_path / "weights" / "weights.safetensors")["w"].tolist() == [1, 1]
    reason = "not judged: RuntimeError: the face mesh is gone"
    assert json.loads((tmp_path / "gate.json").read_text()) == {"failed": [reason]}
    assert json.loads((tmp_path / "weights" / "config.json").read_text())["gate"] == {"failed": [reason]}
    assert reason in caplog.text


def test_a_stage_that_is_killed_while_it_is_judged_leaves_its_weights_and_no_old_gate(tmp_path: Path, caplog):
    saved(tmp_path, lambda: {"lip_sync": 0.6})
    assert json.loads((tmp_path / "gate.json").read_text()) == {"lip_sync": 0.6, "failed": []}
    with pytest.raises(KeyboardInterrupt):
        saved(tmp_path, killed)
    assert not (tmp_path / "gate.json").exists()
    require(tmp_path / "weights", stage="causal")  # the next stage starts, and is told
    assert "not judged: the stage was stopped" in caplog.text


def test_without_an_earlier_gate_nothing_is_compared(tmp_path: Path):
    """Before a published checkpoint there was no stage."""
    assert earlier_gate(None) == earlier_gate(str(tmp_path / "bidirectional")) == {}
    assert failures({"lip_sync": -0.1}, {"lip_sync_of_before": 0.9, "motion": None}, {}) == []
