"""Every stage trains on exact codes, and their gate tells a character that acts from one that does not."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from data.performances import Acting, PerformanceData
from distill.consistency import ConsistencyStage
from distill.dmd import DMDRules
from distill.dmd_stage import DMDStage
from distill.windows import FromReference
from gwm.autoencoders.motion.code import POSE, WIDTH, MotionConfig, from_latents, physical, steadied
from gwm.chunks import ChunkPattern
from gwm.condition.speech_encoder import SpeechEncoder
from gwm.contract import Contract
from gwm.guidance import Guidance
from gwm.resolution import Resolution
from gwm.weights import WeightsHeader, read_header, save_weights
from tests.tiny import AUDIO, SPEECH, lively
from train.acting_gate import codes, finish_acting, judge_acting, listens, play
from train.bidirectional import BidirectionalStage
from train.causal import CausalStage
from train.learner import Learner
from train.networks import load_dit

SIZE = Resolution(256, 256)

FRAMES = 3
RULES = DMDRules(
    normaliser="sample", normaliser_floor=1e-3, guidance=Guidance(), shift=2.0, sigma_range=(0.02, 0.98)
)  # fmt: skip


def data() -> PerformanceData:
    acting = Acting(seconds=2.0, head_motion=1.0, manners=True, reference_spread=0.25)
    return PerformanceData(
        audio=AUDIO, acting=acting, num_frames=FRAMES, pool=2, crops=8.0, weights_px=[0.2, 2.0], batch_size=2,
        num_workers=0, seed=0,
    )  # fmt: skip


def network() -> partial[Any]:
    adam = partial(torch.optim.AdamW, lr=1e-3)
    return partial(Learner, optimizer=adam, schedule_steps=8, warmup_steps=1, ema_decay=0.9)


def stages(folder: Path) -> dict[str, Any]:
    """By name, to be built when the one before has left its weights."""
    flow = {"motion_weight": 0.9, "shift": 2.0, "seed": 0, "network": network()}
    weights = {name: str(folder / name / "weights") for name in ("bidirectional", "causal", "consistency", "speech")}
    encoder = SpeechEncoder(SPEECH, AUDIO.num_mels)
    save_weights(Path(weights["speech"]), encoder.state_dict(), WeightsHeader(kind="speech", config=AUDIO.to_json()))
    voices = {"agent": {"rate": "frame", "encoder": "speech"}, "user": {"rate": "frame", "encoder": "speech"}}
    voices["manner"] = {"rate": "frame", "width": 20}
    shape = {"dim": 16, "ffn_dim": 24, "num_heads": 2, "num_layers": 1, "patch": 2, "conditions": voices}
    return {
        "bidirectional": partial(
            BidirectionalStage, vae=MotionConfig(), speech=weights["speech"], audio=AUDIO, resolution=SIZE,
            model=shape | {"around_reference": True}, num_frames=FRAMES, num_steps=2, **flow,
        ),
        "causal": partial(
            CausalStage, init=weights["bidirectional"], num_steps=2, history_noise=0.3, **flow,
            pattern=ChunkPattern(chunk_frames=1, window_chunks=3, sink_chunks=1, first_frames=1),
        ),
        "consistency": partial(
            ConsistencyStage, init=weights["causal"], sigmas=[1.0, 0.5], num_levels=4, guidance=Guidance(),
            history_noise=0.3, **flow,
        ),
        "dmd": partial(
            DMDStage, init=weights["consistency"], teacher=weights["bidirectional"], sigmas=[1.0, 0.5],
            solver="renoise", context="clean", noise="fresh", exit="uniform", gradient="detach",
            windows=FromReference(), rules=RULES, critic_per_student=1, max_steps=4, clip_norm=1.0, alarm=None,
            student=network(), critic=network(), seed=0,
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every stage leaves after two steps."""
    folder = tmp_path_factory.mktemp("acting")
    for name, build in stages(folder).items():
        torch.manual_seed(0)
        stage, module = build(), data()
        trainer = L.Trainer(
            accelerator="cpu", max_steps=2, max_epochs=-1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        before = {key: value.clone() for key, value in stage.network.model.state_dict().items()}
        trainer.fit(stage, module)
        moved = [key for key, value in stage.network.model.state_dict().items() if not torch.equal(value, before[key])]
        assert moved, f"{name} has learnt nothing"
        finish_acting(
            stage, module, folder / name, people=2, seconds=2.0, batch_size=2, minimum={"lip_sync": 2.0}, before=None
        )
    return folder


@pytest.mark.parametrize("name", ["bidirectional", "causal", "consistency", "dmd"])
def test_a_stage_trains_on_codes_and_is_judged(folder: Path, name: str):
    """Two steps from what the stage before left; the contract says which latents they are of."""
    header = read_header(folder / name / "weights", kind="dit")
    contract = Contract.from_json(header.contract)
    assert contract.vae == MotionConfig() and contract.dit.in_channels == WIDTH and contract.latent_grid == (2, 2)
    gate = header.gate
    assert gate["clips"] == 2 and gate["failed"] and {"opening_of_data", "answer_sure", "jaw_distance"} <= set(gate)


@pytest.fixture(scope="module")
def people() -> tuple[list[np.ndarray], list[tuple[np.ndarray, np.ndarray]]]:
    """Exact codes of held-out performances, and what they hear."""
    clips, acts = data().held_out(10, 8.0)
    truth = [codes(clip["x0"]) for clip in clips]
    heard = []
    for act, code in zip(acts, truth, strict=True):
        part = slice(4, 4 + len(code))
        heard.append((act.user[1000 * part.start : 1000 * part.stop], listens(act)[part]))
    return truth, heard


def test_exact_codes_pass_and_another_persons_do_not(people: Any):
    truth, heard = people
    gate = judge_acting(truth, truth[1:] + truth[:1], truth, heard)
    assert gate["lip_sync"] == pytest.approx(1) and abs(gate["lip_sync_swapped"]) < 0.3
    assert all(gate[f"{name}_of_data"] == pytest.approx(1) for name in ("opening", "blinks", "head", "brows", "gaze"))
    assert gate["false_mouth"] == 0 and gate["jaw_distance"] == gate["head_speed_distance"] == 0
    other = judge_acting(truth[1:] + truth[:1], truth, truth, heard)
    assert other["lip_sync"] < 0.3 < gate["answer"] - other["answer"]


def test_a_still_head_and_half_an_opening_are_seen(people: Any):
    truth, heard = people
    calm = [code.copy() for code in truth]
    for code in calm:
        code[:, :52] /= 2
        code[:, 52:] = 0
    gate = judge_acting(calm, calm, truth, heard)
    assert gate["opening_of_data"] == pytest.approx(0.5) == gate["opening_likeness"]
    assert gate["head_of_data"] == gate["gaze_likeness"] == gate["blinks_of_data"] == 0
    assert gate["brows_of_data"] == pytest.approx(0.5) and gate["lip_sync"] == pytest.approx(1)
    assert gate["head_speed_distance"] > 0.5


def test_too_much_is_as_unlike_as_too_little(people: Any):
    truth, heard = people
    gate = judge_acting([2 * code for code in truth], truth, truth, heard)
    assert gate["head_of_data"] == pytest.approx(2) and gate["head_likeness"] == pytest.approx(0.5)


def test_a_head_that_steps_with_every_latent_frame_is_seen(people: Any):
    truth, heard = people
    stairs = [code.copy() for code in truth]
    for code in stairs:
        code[:, POSE] = np.repeat(code[::4, POSE], 4, axis=0)[: len(code)]
    assert judge_acting(truth, truth, truth, heard)["head_steps"] == pytest.approx(1, abs=0.2)
    assert judge_acting(stairs, truth, truth, heard)["head_steps"] > 100


def test_what_is_judged_is_what_the_decoder_shows(monkeypatch: pytest.MonkeyPatch, folder: Path):
    """Sampled codes whose head steps from chunk to chunk: shown, it glides."""
    model, contract = load_dit(folder / "causal" / "weights", stage="causal")
    clips, _ = data().held_out(1, 2.0)
    sampled = torch.zeros(1, 2, WIDTH, 2, 2)
    sampled[:, 1, POSE] = 1.0
    monkeypatch.setattr("train.acting_gate.stream", lambda *_, **__: sampled)
    (made,) = play(model, contract, clips, batch_size=1, seed=0, swap_voices=False)
    shown = physical(steadied(from_latents(sampled), torch.zeros(1, 5))[0])[0].numpy()
    assert np.array_equal(made, shown) and (np.diff(made[:, POSE][3:], axis=0) > 0).all()


def test_swapped_voices_are_what_the_next_clip_hears(folder: Path):
    """Its manner stays: what changes is due to what is heard."""
    model, contract = load_dit(folder / "causal" / "weights", stage="causal")
    clips, _ = data().held_out(2, 2.0)
    names = ["frame.agent", "frame.user"]
    by_hand = [clip | {name: other[name] for name in names} for clip, other in zip(clips, clips[::-1], strict=True)]
    own, swapped, expected = (
        play(lively(model).eval(), contract, given, batch_size=2, seed=0, swap_voices=swap)
        for given, swap in ((clips, False), (clips, True), (by_hand, False))
    )
    assert len(own[0]) == 4 * len(clips[0]["x0"]) and clips[0]["frame.manner"].any()
    for mine, theirs, other in zip(swapped, expected, own, strict=True):
        assert np.array_equal(mine, theirs) and not np.array_equal(mine, other)
