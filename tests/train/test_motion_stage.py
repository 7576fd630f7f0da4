"""The motion autoencoder's stage: exact truth costs nothing, training is resumed exactly, and a run can be exported."""

from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch

from data.motion import PairSettings, write_pair
from data.motion_batch import MotionBatch, MotionData
from gwm.autoencoders.motion.basis import FEATURES
from gwm.autoencoders.motion.code import MotionConfig, place
from gwm.autoencoders.motion.codec import load_motion
from gwm.autoencoders.motion.network import Coarse
from train.learner import Learner
from train.motion_loss import code_loss, code_weights, draw_window, flow_loss, flow_weight, picture_loss
from train.motion_stage import MotionStage, export, fit_basis, moved_small

TINY = MotionConfig(half=8, quarter=8, eighth=8, sixteenth=8, hidden=16, warped=6)
WEIGHTS = {
    "flow": 0.3,
    "coarse": 1.0,
    "warped": 0.3,
    "gradient": 2.0,
    "perceptual": 0.0,
    "redrawn": 0.1,
    "person": 0.2,
    "code": 0.2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("motion")
    settings = PairSettings(resolution=256, frames=3, seed=1, flat_share=0.0)
    for number in range(2):
        write_pair(("train", number), out=str(folder), settings=settings)
    return folder


def data(folder: Path) -> MotionData:
    return MotionData(shards=str(folder), batch_size=1, pictures=2, num_workers=0, seed=0)


def stage() -> MotionStage:
    torch.manual_seed(0)
    optimizer = partial(torch.optim.AdamW, lr=1e-3)
    network = partial(Learner, optimizer=optimizer, schedule_steps=10, warmup_steps=1, ema_decay=0.9)
    return MotionStage(config=TINY, init=None, code_noise=0.05, every=2, weights=WEIGHTS, network=network, seed=0)


def run(folder: Path, steps: int, ckpt: Path | None = None) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(stage(), data(folder), ckpt_path=ckpt, weights_only=False)
    return trainer


def batch(folder: Path) -> MotionBatch:
    return next(iter(data(folder).train_dataloader()))


def test_a_resumed_run_ends_where_an_unbroken_one_does_and_can_be_exported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("train.motion_stage.bf16_is_faster", lambda device: False)  # else each measures for itself
    whole, half = run(folder, 2), run(folder, 1)
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed = run(folder, 2, tmp_path / "half.ckpt")
    expected, got = (t.lightning_module.state_dict() for t in (whole, resumed))
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    resumed.save_checkpoint(tmp_path / "end.ckpt")
    export(str(tmp_path / "end.ckpt"), str(tmp_path / "weights"), config=TINY)
    codec = load_motion(tmp_path / "weights")
    fields = got["network.model.decoder.basis.fields"]
    assert fields.any()
    torch.testing.assert_close(codec.decoder.basis.fields, fields.half().float())


def test_a_resumed_run_computes_in_the_precision_it_began_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for measured, ckpt in ((True, None), (False, tmp_path / "half.ckpt")):
        monkeypatch.setattr("train.motion_stage.bf16_is_faster", lambda device, measured=measured: measured)
        trainer = run(folder, 1, ckpt)
        trainer.save_checkpoint(tmp_path / "half.ckpt")
        assert trainer.lightning_module.bf16 == 1


def test_exact_flow_costs_nothing_and_half_of_it_half_the_motion(folder: Path):
    b = batch(folder)
    content, gate = torch.zeros(len(b.code), 1, 64, 64), torch.ones(len(b.code), 1, 1, 1)
    weight = flow_weight(b)
    exact = flow_loss(Coarse(b.flow, content, gate), b, weight)
    assert exact < 0.011  # the root of 1e-4 that keeps the gradient finite
    half = flow_loss(Coarse(b.flow / 2, content, gate), b, weight)
    moved = (weight * b.flow.norm(dim=1)).sum() / weight.sum()
    assert half == pytest.approx(float(moved) / 2, rel=0.02)
    assert moved_small(b.flow, b) < 0.6 * moved_small(torch.zeros_like(b.flow), b)


def test_flow_counts_where_the_reference_shows_the_person(folder: Path):
    b = batch(folder)
    weight = flow_weight(b)
    assert weight[b.shown].min() >= 1 and weight[~b.shown].max() <= 0.3 + 1e-6


def test_picture_loss_is_the_mean_over_scales_of_its_terms():
    """One bright pixel in 4x4: L1 is 1/16 of it at every scale; gradients by hand."""
    truth = torch.zeros(1, 3, 8, 8)
    out = truth.clone()
    out[..., 0, 0] = 1
    alone = picture_loss(out, truth, torch.ones(1), 0.0)
    assert float(alone) == pytest.approx(1 / 64)
    with_gradients = picture_loss(out, truth, torch.ones(1), 1.0)
    edges = sum(2 * (4**-k) / ((8 >> k) * ((8 >> k) - 1)) for k in range(3)) / 3
    assert float(with_gradients - alone) == pytest.approx(edges, rel=1e-5)


def test_the_jaw_counts_more_than_a_sneer_in_codes():
    code = torch.zeros(1, 57)

    def cost(name: str) -> float:
        wrong = code.clone()
        wrong[0, place(name)] = 1
        return float(code_loss(wrong, code, code_weights()))

    assert cost("jawOpen") == pytest.approx(4 * cost("mouthFunnel")) and cost("yaw") > cost("noseSneerLeft")


def test_windows_lie_where_a_residual_is_made():
    window = draw_window(500, torch.Generator().manual_seed(0), 8, 6)
    rows, columns = window.corner.T
    assert rows.min() >= 8 and rows.max() + window.rows <= 64
    assert columns.min() >= 6 and columns.max() + window.columns <= 58


def test_the_basis_explains_most_of_the_flow(folder: Path):
    model = stage().network.model
    fit_basis(model, data(folder))
    b = batch(folder)
    flow = model.decoder.basis(b.code, torch.ones(len(b.code), FEATURES))
    inside = b.inside[:, None].expand_as(flow)
    mirrored_or_not = (flow - b.flow)[inside].square().mean() / b.flow[inside].square().mean()
    assert mirrored_or_not < 0.8
