"""What a gate measures and says, and what a stage leaves behind when it ends; without networks and faces."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

from data.actions import ACTION_NAMES
from data.latents import write_no_text
from data.shards import Clip, Truth
from gwm.chunks import ChunkPattern
from gwm.metrics.judge import Judge
from gwm.no_text import read_no_text
from gwm.resolution import Resolution
from gwm.weights import read_header
from tests.distill.pairs import ClipsInMemory
from tests.tiny import VAE_SHAPE, contract, declared, tiny_dit
from train import gate as gates
from train.gate import DEMANDED, border_frames, finish, judge_stage, report_gate, shares, verdict
from train.networks import dit_facts, load_dit, require

FRAMES, SIDE = 8, 8
PEOPLE = ("ann", "ann", "bob", "cid")
NOTHING = {"failed": [], "undecided": [], "not_measured": []}


def test_a_gate_names_what_it_misses():
    gate = {"lip_sync": 0.5, "motion": 0.9, "lip_sync_of_ceiling": 0.6}
    before = {"lip_sync": 0.6, "motion": 1.0}
    minimum = {"lip_sync_of_ceiling": 0.95, "lip_sync_of_before": 0.9, "motion_of_before": 0.7}
    missed = verdict(gate, minimum, before)["failed"]
    assert missed == ["lip_sync=0.500 must be >= 0.540", "lip_sync_of_ceiling=0.600 must be >= 0.950"]


@pytest.mark.parametrize(
    ("value", "outcome"), [(0.33, None), (0.31, "undecided"), (0.29, "undecided"), (0.27, "failed")]
)
def test_a_minimum_inside_the_interval_is_undecided(value: float, outcome: str | None):
    """0.3 with a standard error of 0.01: 95 % are 0.0196 on both sides."""
    found = verdict({"identity": value, "identity_error": 0.01}, {"identity": 0.3}, {})
    expected = f"identity={value:.3f} +- 0.010 must be >= 0.300"
    assert found == NOTHING | ({} if outcome is None else {outcome: [expected]})


def test_the_stage_before_is_uncertain_too():
    """0.46 +- 0.02 against 0.5 x 1 +- 0.04: the difference has 0.028, and 0.04 is less than 1.96 of them."""
    gate, before = {"motion": 0.46, "motion_error": 0.02}, {"motion": 1.0, "motion_error": 0.04}
    assert len(verdict(gate, {"motion_of_before": 0.5}, before)["undecided"]) == 1
    assert len(verdict(gate, {"motion_of_before": 0.5}, {"motion": 1.0})["failed"]) == 1


def test_what_has_no_number_is_unmeasured_and_not_passed():
    """A metric that was skipped; and one of which the stage before, a published checkpoint, has no gate."""
    minimum = {"identity_share_of_before": 0.95, "motion_of_before": 0.7}
    found = verdict({"motion": 1.0}, minimum, {"identity_share": 0.5})
    assert found == NOTHING | {"not_measured": ["identity_share_of_before", "motion_of_before"]}


def test_a_number_that_is_none_fails():
    assert verdict({"lip_sync": float("nan")}, {"lip_sync": 0.1}, {})["failed"] == ["lip_sync=nan must be >= 0.100"]


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
    stage: Any = Mock(takes_sound=True)
    stage.decode.return_value = ([clip.frames for clip in clips], [0 for _ in clips])
    monkeypatch.setattr(gates, "held_out", lambda *_: clips)
    facts = dit_facts(contract())
    found = judge_stage(stage, nn.Linear(1, 1), facts, Mock(resolution=Resolution(16, 16)), clips=4, batch_size=2)
    measured = {"motion"} if clips else set()
    assert found["clips"] == len(clips) and set(found["not_measured"]) == set(DEMANDED) - measured
    assert not clips or (found["psnr"] > 58 and found["motion"] == 1)
    report_gate(tmp_path, found | verdict(found, {"lip_sync_of_ceiling": 0.95}, {}))
    assert "was not measured" in caplog.text and "lip_sync_of_ceiling" in caplog.text
    assert set(found["not_measured"]) <= set(json.loads((tmp_path / "gate.json").read_text())["not_measured"])


def test_a_lip_sync_that_swapped_voices_leave_was_never_there():
    assert verdict({"lip_sync": 0.4, "lip_sync_swapped": 0.19}, {}, {}) == NOTHING
    (missed,) = verdict({"lip_sync": 0.4, "lip_sync_swapped": 0.21}, {}, {})["failed"]
    assert missed == "lip_sync_swapped=0.210 must be <= 0.200, half of it with the own voice"


def test_shares_are_between_floor_and_ceiling():
    gate = {"lip_sync": 0.3, "lip_sync_error": 0.06, "lip_sync_ceiling": 0.6}
    gate |= {"identity": 0.7, "identity_error": 0.02, "identity_floor": 0.5, "identity_ceiling": 0.9}
    assert shares(gate) == pytest.approx(
        {
            "lip_sync_of_ceiling": 0.5,
            "lip_sync_of_ceiling_error": 0.1,
            "identity_share": 0.5,
            "identity_share_error": 0.05,
        }
    )
    assert shares({"identity": 0.7, "identity_ceiling": 0.9}) == {}


def test_borders_are_where_the_contract_has_chunks():
    chunk_of_three = ChunkPattern(chunk_frames=3, window_chunks=4, sink_chunks=1, first_frames=1)
    facts = dit_facts(contract(pattern=chunk_of_three))
    assert border_frames(facts, 48) == 12
    assert border_frames(facts, 12) == 4  # all of the clip is one chunk: a bidirectional model
    assert border_frames({"kind": "autoencoder", "config": VAE_SHAPE.to_json()}, 48) == 4


def clip(number: int) -> Clip:
    """A picture of one brightness, 10 more for each person."""
    level = 10 * (1 + sorted(set(PEOPLE)).index(PEOPLE[number]))
    frames = np.full((FRAMES, SIDE, SIDE, 3), level, np.uint8)
    still = np.zeros((FRAMES, 3), np.float32)
    truth = Truth(
        mouth=still[:, 0], actions=np.zeros((FRAMES, len(ACTION_NAMES)), np.float32), pose=still, gaze=still[:, :2],
        agent_speaking=still[:, 0] > 0, user_speaking=still[:, 0] > 0,
    )  # fmt: skip
    voice = np.zeros(1000 * FRAMES, np.float32)
    info = {"identity": PEOPLE[number], "style": "anny"}
    return Clip(key=str(number), frames=frames, agent=voice, user=voice, reference=frames[0], truth=truth, info=info)


def embedded(image: np.ndarray) -> np.ndarray:
    """A picture's brightness in hundredths."""
    return np.eye(1, 128)[0] * image.mean() / 100


class BrightnessJudge(Judge):
    """Lip-sync is the brightness of the frames in hundredths; identity that of the picture less than the reference's.
    A stand-in for faces, which drawings this small do not have."""

    def __init__(self, *, thorough: bool, sync: None) -> None:
        assert not thorough
        self.skipped, self.embedding = {}, embedded

    def __call__(self, frames: np.ndarray, *, reference: np.ndarray, **_: Any) -> tuple[dict[str, float], None]:
        level = float(frames.mean()) / 100
        alike = 1 - abs(level - float(reference.mean()) / 100)
        return {"lip_sync": level, "identity": alike, "motion": 1.0, "border_flicker": 1.0}, None


class Darker:
    """A stage that shows every clip `by` darker, and black with another's voice."""

    def __init__(self, by: int = 5, *, error: Exception | None = None) -> None:
        self.by, self.error, self.takes_sound = by, error, True
        self.contract, self.model = contract(), tiny_dit()

    def weights(self) -> tuple[nn.Module, dict[str, Any]]:
        return self.model, dit_facts(self.contract)

    def decode(self, model: nn.Module, clips: list[Clip], data: Any, *, batch_size: int, swap_voices: bool) -> Any:
        assert not model.training
        if self.error is not None:
            raise self.error
        shown = [clip.frames[2:] - np.uint8(self.by) for clip in clips]
        return [frames * np.uint8(not swap_voices) for frames in shown], [2] * len(clips)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClipsInMemory:
    made = ClipsInMemory(tmp_path)
    made.resolution = Resolution(SIDE, SIDE)
    monkeypatch.setattr(gates, "Judge", BrightnessJudge)
    monkeypatch.setattr(gates, "held_out", lambda shards, resolution, count: [clip(k) for k in range(count)])
    return made


def ended(stage: Darker, data: Any, folder: Path, before: str | None = None, **minimum: float) -> dict[str, Any]:
    """The gate that the stage leaves, which is the same in both places."""
    finish(stage, data, folder, clips=len(PEOPLE), batch_size=2, minimum=minimum, before=before)
    gate = json.loads((folder / "gate.json").read_text())
    assert read_header(folder / "weights", kind="dit")["gate"] == gate
    return gate


def test_a_stage_is_measured_against_renders_strangers_and_swapped_voices(data: Any, tmp_path: Path):
    """Renders have 0.1, 0.1, 0.2, 0.3; the stage 0.05 less; people differ by 0.1, 0.1 and 0.2."""
    gate = ended(Darker(), data, tmp_path)
    assert (gate["lip_sync"], gate["lip_sync_ceiling"]) == (pytest.approx(0.125), pytest.approx(0.175))
    assert gate["lip_sync_of_ceiling"] == pytest.approx(0.125 / 0.175)
    assert (gate["clips"], gate["lip_sync_swapped"]) == (4, 0)
    assert (gate["identity"], gate["identity_ceiling"]) == (pytest.approx(0.95), pytest.approx(1.0))
    assert gate["identity_floor"] == pytest.approx(1 - (0.1 + 0.1 + 0.2) / 3)
    assert gate["identity_share"] == pytest.approx(1 - 0.05 / (0.4 / 3))
    # Sums of 2, 1, 1 clips: 0.1, 0.15, 0.25 less the mean times their number, 0.25, 0.125, 0.125.
    residuals = np.array([-0.15, 0.025, 0.125])
    assert gate["lip_sync_error"] == pytest.approx(np.sqrt(np.square(residuals).sum() * 3 / 2) / 4)


def test_a_stage_that_reaches_its_minima_passes_in_silence(data: Any, tmp_path: Path, caplog: Any):
    gate = ended(Darker(), data, tmp_path, identity=0.9)
    assert {name: gate[name] for name in NOTHING} == NOTHING
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_failed_gate_warns_here_and_in_the_next_stage(data: Any, tmp_path: Path, caplog: Any):
    missed = "identity=0.950 must be >= 0.990"
    assert ended(Darker(), data, tmp_path, identity=0.99)["failed"] == [missed]
    assert f"failed: {missed}" in caplog.text
    caplog.clear()
    require(tmp_path / "weights", stage="causal")
    assert f"did not pass its gate ({missed})" in caplog.text


def test_a_stage_that_does_not_hear_is_not_asked_for_other_voices(data: Any, tmp_path: Path):
    stage = Darker()
    stage.takes_sound = False
    assert "lip_sync_swapped" not in ended(stage, data, tmp_path)


def test_shares_of_the_stage_before_are_of_its_gate(data: Any, tmp_path: Path):
    before = tmp_path / "before"
    before.mkdir()
    (before / "gate.json").write_text(json.dumps({"motion": 2.0}))
    gate = ended(Darker(), data, tmp_path, str(before), motion_of_before=0.7)
    assert "motion=1.000 must be >= 1.400" in gate["failed"]


def test_a_stage_before_without_a_gate_is_no_error(data: Any, tmp_path: Path, caplog: Any):
    """A published checkpoint has none; weights were lost over it once."""
    gate = ended(Darker(), data, tmp_path, str(tmp_path / "published"), motion_of_before=0.7)
    assert gate["not_measured"] == ["motion_of_before"]
    assert "was not measured: motion_of_before" in caplog.text


def test_without_held_out_speech_nothing_is_passed(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gates, "held_out", lambda *_: [])
    gate = ended(Darker(), data, tmp_path, lip_sync_of_ceiling=0.25)
    assert gate == NOTHING | {"clips": 0, "not_measured": sorted(DEMANDED)}


def test_an_error_while_judging_reaches_the_caller_and_leaves_the_weights(data: Any, tmp_path: Path):
    stage = Darker(error=RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        finish(stage, data, tmp_path, clips=4, batch_size=2, minimum={}, before=None)
    model, rules = load_dit(tmp_path / "weights", stage="causal")
    assert rules == stage.contract
    for name, value in stage.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert not (tmp_path / "gate.json").exists()


def test_the_empty_prompt_lies_beside_the_weights(data: Any, tmp_path: Path):
    write_no_text(tmp_path, torch.full((1, 6), 0.5))
    stage = Darker()
    stage.contract = stage.contract.replace(dit=declared(stage.contract.dit, text=6))
    stage.model = tiny_dit(stage.contract.dit)
    ended(stage, data, tmp_path)
    found = read_no_text(tmp_path / "weights")
    assert found is not None and torch.equal(found, torch.full((1, 6), 0.5))
