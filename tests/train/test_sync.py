"""The lip-sync stage: its loss, its gate, its data."""

from functools import partial

import numpy as np
import pytest
import torch

from data.mouths import MARGIN_PX, Mouth, MouthData, augmented, cut_mouths, mouth_batch
from gwm.config import AudioConfig
from gwm.metrics.sync_net import CROP_PX, SyncNet
from train import sync
from train.learner import Learner
from train.sync import SyncStage, contrast, judge_sync, neighbours

AUDIO = AudioConfig(num_mels=8)
SIDE = CROP_PX + MARGIN_PX


def talking(seed: int) -> Mouth:
    """A square whose brightness is the loudness of a noise."""
    rng = np.random.default_rng(seed)
    loud = rng.random(40)
    pixels = np.zeros((40, SIDE, SIDE, 3), np.uint8)
    pixels[:, 10:26, 10:26] = (255 * loud).astype(np.uint8)[:, None, None, None]
    voice = np.repeat(loud, 1000) * rng.standard_normal(40_000) * 0.3
    return Mouth(pixels, voice.astype(np.float32))


def test_loss_is_least_for_the_own_voice_and_chance_without_any():
    heard = torch.nn.functional.normalize(torch.randn(2, 4, 32), dim=2)
    nothing = torch.zeros(8, 8, dtype=torch.bool)
    own, other = contrast(heard, heard, nothing), contrast(heard, heard.roll(1, dims=1), nothing)
    assert own < 0.05 < 3 < other
    flat = torch.ones(2, 4, 32) / 32**0.5
    assert contrast(flat, flat, nothing).item() == pytest.approx(np.log(8))


def test_neighbours_in_the_same_clip_are_neither_right_nor_wrong():
    near = neighbours(torch.tensor([[0, 2, 9], [0, 2, 9]]))
    expected = torch.zeros(6, 6, dtype=torch.bool)
    for clip in (0, 3):
        expected[clip, clip + 1] = expected[clip + 1, clip] = True
    assert torch.equal(near, expected)


def test_training_learns_which_square_belongs_to_which_noise():
    torch.manual_seed(0)
    adam = partial(torch.optim.AdamW, lr=3e-3)
    stage = SyncStage(
        audio=AUDIO, network=partial(Learner, optimizer=adam, schedule_steps=60, warmup_steps=1, ema_decay=0.9)
    )
    stage.log = lambda *_, **__: None  # type: ignore[method-assign]  # there is no trainer
    data = MouthData(shards="", mouths="", audio=AUDIO, batch_size=4, windows_per_clip=8, num_workers=0, seed=0)
    data.clips = [talking(seed) for seed in range(16)]
    unseen = [talking(seed) for seed in range(100, 104)]
    before = judge_sync(stage.network.ema_model, unseen)["auc_window"]
    optimizer = stage.configure_optimizers()["optimizer"]
    for _, batch in zip(range(60), data.train_dataloader(), strict=False):
        optimizer.zero_grad()
        stage.training_step(batch, 0).backward()
        optimizer.step()
    gate = judge_sync(stage.network.ema_model.eval(), unseen)
    assert before < 0.65
    assert gate["auc_window"] > 0.8
    assert gate["auc"] > 0.95


def test_gate_of_a_perfect_and_of_a_deaf_network(monkeypatch):
    mouths = [talking(seed) for seed in range(3)]
    perfect = torch.nn.functional.normalize(torch.randn(36, 64), dim=1)
    both = lambda seen, heard: monkeypatch.setattr(sync, "embeddings", lambda *_: (seen, heard))  # noqa: E731
    both(perfect, perfect)
    assert judge_sync(SyncNet(AUDIO), mouths)["auc"] == 1
    both(perfect.flip(0), torch.ones(36, 64) / 8)
    assert judge_sync(SyncNet(AUDIO), mouths)["auc"] < 0.9


def test_a_window_of_the_batch_is_what_it_says():
    """Pixels and sound of a window come from the same frames of the clip."""
    data = MouthData(shards="", mouths="", audio=AUDIO, batch_size=1, windows_per_clip=6, num_workers=0, seed=3)
    data.clips = [talking(0)]
    batch = next(iter(data.train_dataloader()))
    loud = batch.voices.exp().mean(-1).flatten()
    bright = batch.mouths.mean((-1, -2, -3)).flatten()
    assert np.corrcoef(loud.numpy(), bright.numpy())[0, 1] > 0.8
    assert len(set(batch.starts[0].tolist())) == 6


def test_augmentation_is_the_same_in_all_windows_of_a_clip():
    pixels = np.repeat(talking(1).pixels[None, :5], 2, axis=0)
    changed = augmented(pixels, np.random.default_rng(0))
    assert torch.equal(changed[0], changed[1])
    assert not torch.equal(changed, augmented(pixels, np.random.default_rng(1)))
    assert mouth_batch([(7, (changed, torch.zeros(2, 5, 3), torch.zeros(2)))]).step == 7


def test_cut_mouths_are_kept(tmp_path):
    pixels, agents = np.zeros((2, 9, SIDE, SIDE, 3), np.uint8), np.full((2, 9_000), 0.5, np.float16)
    np.savez(tmp_path / "val.npz", pixels=pixels, agents=agents)
    mouths = cut_mouths(tmp_path / "none", "val", tmp_path)
    assert len(mouths) == 2
    assert mouths[0].middle.shape == (9, CROP_PX, CROP_PX, 3)
    assert mouths[1].agent.dtype == np.float32
