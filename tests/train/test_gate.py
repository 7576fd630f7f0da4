from gwm.chunks import ChunkPattern
from tests.tiny import VAE_SHAPE, contract
from train.gate import border_frames, failures
from train.network import dit_facts


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
