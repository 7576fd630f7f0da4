"""Random known frames: how they are drawn, and that the condition is declared by one entry and then learnt."""

from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch
from hydra.utils import instantiate

from data.batch import LatentBatch
from gwm.condition.keyframes import next_known
from tests.test_configs import composed
from tests.tiny import DIT, keyframed, latents, speech
from train.bidirectional import BidirectionalStage
from train.noise import drawn_known, sample_generators, with_drawn_keyframes, without_some

CONFIG = keyframed(DIT)


def batch(size: int = 4, *, step: int = 3, first_slot: int = 0) -> LatentBatch:
    torch.manual_seed(0)
    return LatentBatch(latents(24, size), latents(1, size), speech(24, size).flat(), step=step, first_slot=first_slot)


def test_known_frames_are_of_all_kinds():
    """As the docstring says: few, many, none and beginnings."""
    known = drawn_known(torch.zeros(4_000, 24, 1, 1, 1), torch.Generator().manual_seed(0))
    counts = known.sum(dim=1)
    at_most_two = float((counts <= 2).float().mean())
    assert 0.35 < at_most_two < 0.5 and (counts == 0).any() and (counts > 20).any()
    beginnings = (known[:, 1:] <= known[:, :-1]).all(dim=1) & (counts > 1)
    assert 0.2 < float(beginnings.float().mean()) < 0.3
    scattered = known[~beginnings].float().mean(dim=0)
    assert float(scattered.max() - scattered.min()) < 0.06  # any position, the last as often as the first


def test_a_sample_is_given_its_own_known_frames():
    given = with_drawn_keyframes(batch(), config=CONFIG, seed=1)
    generators = sample_generators(1, given, torch.device("cpu"), 1)
    expected = next_known(given.x0, drawn_known(given.x0, generators))
    assert torch.equal(given.condition["keyframes"], expected) and expected.any()
    part = batch(2, first_slot=2)
    part = replace(part, x0=given.x0[2:])
    assert torch.equal(with_drawn_keyframes(part, config=CONFIG, seed=1).condition["keyframes"], expected[2:])
    later = with_drawn_keyframes(batch(step=4), config=CONFIG, seed=1).condition["keyframes"]
    assert not torch.equal(later, expected)


def test_a_model_without_the_condition_trains_as_before():
    plain = batch()
    assert with_drawn_keyframes(plain, config=DIT, seed=1) is plain


def test_training_drops_keyframes_by_their_own_chance():
    many = with_drawn_keyframes(batch(400), config=CONFIG, seed=0)
    spec = CONFIG.keyframes
    assert spec is not None
    generators = sample_generators(0, many, torch.device("cpu"))
    left = without_some(many.condition, many.x0, config=CONFIG, generator=generators)["keyframes"].flatten(1).any(dim=1)
    had = many.condition["keyframes"].flatten(1).any(dim=1)
    share = float((had & ~left).sum() / had.sum())
    assert not (left & ~had).any() and abs(share - spec.drop_rate) < 0.05


def test_a_declared_keyframe_is_learnt(tmp_path: Path):
    """The stage draws them, the patch embedding learns them: the recipe, at the smallest size."""
    cfg = composed(
        "train",
        ["stage=bidirectional", "experiment=keyframes", f"runs={tmp_path}", "num_frames=2", "model.dim=16",
         "model.num_heads=2", "model.ffn_dim=16", "model.num_layers=1", "data.batch_size=2", "data.num_workers=0",
         "data.acting.seconds=2.0", "data.pool=2", "data.crops=40.0"],
    )  # fmt: skip
    stage: BidirectionalStage = instantiate(cfg.stage, _convert_="all")
    data = instantiate(cfg.data, _convert_="all")
    spec = stage.contract.dit.keyframes
    assert spec is not None and spec.width == 58 and spec.drop_rate == pytest.approx(0.1)
    before = stage.network.model.patch_embedding.weight.detach().clone()
    trainer = L.Trainer(
        accelerator="cpu", max_steps=3, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(stage, data)
    moved = (stage.network.model.patch_embedding.weight - before).abs().amax(dim=0)
    columns = moved[-spec.width * stage.contract.dit.patch**2 :]
    assert (columns > 0).sum() > len(columns) / 2
