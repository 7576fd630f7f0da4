import json
import math
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from torch import nn

import train.gate as gate_file
from data.shards import Clip
from gwm.chunks import ChunkPattern
from tests.tiny import VAE_SHAPE, contract
from train.gate import DEMANDED, border_frames, failures, judge_stage, report_gate
from train.network import dit_facts


def test_a_gate_names_what_it_misses():
    gate = {"lip_sync": 0.5, "lip_sync_error": 0.1, "motion": 0.9, "lip_sync_of_ceiling": 0.6}
    before = {"lip_sync": 0.6, "motion": 1.0}
    least = {"lip_sync_of_ceiling": 0.95, "lip_sync_of_before": 0.9, "motion_of_before": 0.7}
    missed = failures(gate, least, before)
    assert missed == ["lip_sync_of_ceiling=0.600 must be >= 0.950", "lip_sync=0.500 +- 0.100 must be >= 0.540"]


def test_a_metric_that_was_skipped_fails_nothing():
    assert failures({}, {"identity_of_before": 0.95}, {"identity": 0.5}) == []


def test_a_measure_that_is_no_number_fails():
    (missed,) = failures({"motion": math.nan}, {"motion_of_before": 0.7}, {"motion": 0.0})
    assert missed.startswith("motion=nan")


def footage(key: str) -> Clip:
    rng = np.random.default_rng(len(key))
    frames = rng.integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    voice = rng.normal(0, 0.1, 8000).astype(np.float32)
    return Clip(
        key=key, frames=frames, agent=voice, user=None, reference=frames[0], truth=None, info={"style": "footage"}
    )


@pytest.mark.parametrize("clips", [[], [footage("a"), footage("bb")]])
def test_what_could_not_be_measured_is_neither_passed_nor_failed(clips, tmp_path, monkeypatch, caplog):
    """Real footage: nobody knows where the mouth should be, and in noise there is no face. Pixels are compared."""
    stage: Any = Mock(hears=True)
    stage.decode.return_value = ([clip.frames for clip in clips], [0 for _ in clips])
    monkeypatch.setattr(gate_file, "held_out", lambda *_: clips)
    facts = dit_facts(contract())
    found = judge_stage(stage, nn.Linear(1, 1), facts, Mock(resolution=16), clips=4, batch_size=2)
    measured = {"motion"} if clips else set()
    assert found["clips"] == len(clips) and set(found["not_measured"]) == set(DEMANDED) - measured
    assert not clips or (found["psnr"] > 58 and found["motion"] == 1)
    report_gate(tmp_path, found | {"failed": failures(found, {"lip_sync_of_ceiling": 0.95}, {})})
    assert "not measured" in caplog.text and "lip_sync_of_ceiling" in caplog.text
    assert json.loads((tmp_path / "gate.json").read_text())["not_measured"] == found["not_measured"]


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
