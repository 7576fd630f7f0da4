"""Stage of the motion autoencoder: exact codes in, pictures out; beside it an encoder that reads codes from pictures.

Its data are renders with exact flow (`python -m data.motion`). The flow basis is fitted first, in closed form.
"""

import logging
import time
from collections.abc import Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.motion import read_pair
from data.motion_batch import MotionBatch, MotionData, collate, draw_pictures
from gwm.autoencoders.motion.basis import RidgeFit
from gwm.autoencoders.motion.code import POSE, MotionConfig, physical, place
from gwm.autoencoders.motion.network import Features, MotionNetwork, conv
from gwm.autoencoders.motion.warp import places, sample, whole
from gwm.autoencoders.protocol import KIND
from gwm.metrics.distance import PerceptualDistance
from gwm.weights import WeightsHeader, load_weights, save_weights, write_json
from train.checkpoint import read_checkpoint
from train.learner import Learner
from train.motion_loss import (
    EDGE_PX,
    MOUTH,
    Weights,
    code_loss,
    code_weights,
    decode_batch,
    draw_window,
    flow_loss,
    flow_weight,
    opened,
    picture_loss,
)

log = logging.getLogger(__name__)

BASIS_PAIRS = 600  # enough for the fields: 19,000 pictures
HALF_IS_FASTER = 1.15  # from this ratio of speeds on, training computes in bf16


def bf16_is_faster(device: torch.device) -> bool:
    """Whether convolutions of this model's kind, forward and backward, gain from bf16 here: GPUs and some CPUs do."""
    layer = conv(64, 64).to(device)
    x = torch.randn(8, 64, 64, 64, device=device).contiguous(memory_format=torch.channels_last).requires_grad_()

    def best_s(half: bool) -> float:
        times = []
        for _ in range(6):
            start = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                layer(x).square().mean().backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
        return min(times[1:])

    return best_s(False) > HALF_IS_FASTER * best_s(True)


class MotionStage(L.LightningModule):
    """Train the decoder on exact codes and the encoder to read them. `init` starts from trained weights."""

    bf16: Tensor
    code_weight: Tensor

    def __init__(
        self,
        *,
        config: MotionConfig,
        init: str | None,
        code_noise: float,
        every: int,
        weights: dict[str, float],
        network: partial[Learner[MotionNetwork]],
        seed: int,
    ) -> None:
        super().__init__()
        model = MotionNetwork(config)
        if init is not None:
            load_weights(Path(init), model)
        self.network, self.fitted = network(model), init is not None
        self.weighting, self.code_noise, self.seed = Weights(**weights), code_noise, seed
        self.every = every  # the encoder and the perceptual loss, which are slow, see one picture of so many
        self.perceptual = PerceptualDistance() if self.weighting.perceptual else None
        self.register_buffer("bf16", torch.tensor(-1))  # 0 or 1 once measured: a resumed run computes as it began
        self.register_buffer("code_weight", code_weights(), persistent=False)

    def setup(self, stage: str) -> None:
        if self.trainer.ckpt_path is None:
            self.bf16.fill_(int(bf16_is_faster(self.device)))
            if not self.fitted:
                fit_basis(self.network.model, self.trainer.datamodule)  # type: ignore[attr-defined]

    def training_step(self, batch: MotionBatch, batch_idx: int) -> Float[Tensor, ""]:
        model, config = self.network.model, self.network.model.config
        generator = torch.Generator().manual_seed(hash((self.seed, batch.step, batch.first_slot)) % 2**63)
        window = draw_window(len(batch.code), generator, config.top, config.left)
        noise = self.code_noise * torch.randn(batch.code.shape, generator=generator).to(batch.code)
        seen = slice(None, None, self.every)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bool(self.bf16)):
            made = decode_batch(model, batch, batch.code + noise, window)
            read = model.encoder(batch.frames[seen], batch.reference[batch.owner[seen]])
        inner = (..., slice(EDGE_PX, -EDGE_PX), slice(EDGE_PX, -EDGE_PX))
        truth, weight = window.cut(batch.frames), opened(batch.code)
        terms = {
            "flow": flow_loss(made.coarse, batch, flow_weight(batch)),
            "coarse": moved_small(made.coarse.flow, batch),
            "warped": picture_loss(made.warped[inner], truth[inner], weight, self.weighting.gradient),
            "redrawn": made.share.mean(),
            "person": person_loss(made.people, batch),
            "code": code_loss(read, batch.code[seen], self.code_weight),
        }
        picture = picture_loss(made.picture[inner], truth[inner], weight, self.weighting.gradient)
        loss = picture + sum(getattr(self.weighting, name) * term for name, term in terms.items())
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(made.picture[inner][seen].clamp(-1, 1), truth[inner][seen]).mean()
            loss = loss + self.weighting.perceptual * terms["perceptual"]
        self.log("train/loss", loss, prog_bar=True)
        self.log_dict({f"train/{name}": term for name, term in terms.items()} | {"train/picture": picture})
        self.log_dict(flow_measures(made.coarse.flow.detach(), batch) | code_measures(read.detach(), batch.code[seen]))
        self.log("picture/psnr", psnr(made.picture.detach()[inner], truth[inner]).mean())
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """A bound on each half's gradient: the encoder's is large at first, and both would wait for it."""
        encoder = list(self.network.model.encoder.parameters())
        own = {id(p) for p in encoder}
        others = [p for p in self.network.model.parameters() if id(p) not in own]
        self.log("train/gradient", nn.utils.clip_grad_norm_(others, 2.0))
        nn.utils.clip_grad_norm_(encoder, 1.0)

    def configure_optimizers(self):  # Lightning's own union of a dozen types
        return self.network.optimizers()


def psnr(out: Float[Tensor, "n 3 h w"], truth: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    """Of pictures in [-1, 1], in dB."""
    return 10 * torch.log10(4 / (out.clamp(-1, 1) - truth).square().mean((1, 2, 3)))


def flow_measures(flow: Float[Tensor, "n 2 64 64"], batch: MotionBatch) -> dict[str, Tensor]:
    """Distance from the exact flow around the mouth, and how far things move there, in cells."""
    shown = batch.shown[:, *MOUTH]
    missed, moved = ((x.norm(dim=1)[:, *MOUTH] * shown).sum() / shown.sum() for x in (flow - batch.flow, batch.flow))
    return {"flow/mouth_cells": missed, "flow/mouth_moved_cells": moved}


def code_measures(read: Float[Tensor, "n 57"], code: Float[Tensor, "n 57"]) -> dict[str, Tensor]:
    """Errors of read codes in units of the actions and radians; their spread against the truth's; constant ones."""
    away = (physical(read) - physical(code)).square().mean(0).sqrt()
    return {
        "code/jaw_error": away[place("jawOpen")],
        "code/blink_error": away[place("eyeBlinkLeft")],
        "code/pose_error": away[POSE].mean(),
        "code/spread": (read.std(0) / code.std(0).clamp(min=0.05)).median(),
        "code/dead": (read.std(0) < 1e-3).float().mean(),
    }


def moved_small(flow: Float[Tensor, "n 2 64 64"], batch: MotionBatch) -> Float[Tensor, ""]:
    """L1 of the person's pixels at 1/4 size after the flow alone: a photometric pull on the whole face."""
    small = sample(F.avg_pool2d(batch.reference, 4)[batch.owner], places(flow, 64))
    error = (small - F.avg_pool2d(batch.frames, 4)).abs().mean(1)
    return (error * batch.inside).sum() / batch.inside.sum()


def person_loss(people: Features, batch: MotionBatch) -> Float[Tensor, ""]:
    """Cross entropy of the moving layer."""
    return F.binary_cross_entropy_with_logits(people.person, batch.person)


@torch.no_grad()
def fit_basis(model: MotionNetwork, data: MotionData) -> None:
    """Fields of the flow basis from rendered people of the training split."""
    fit = RidgeFit()
    for path in islice(data.files("train"), BASIS_PAIRS):
        pair = read_pair(path)
        for person in pair.people:
            if not person.flat:
                parts = draw_pictures(pair, person, len(person.frames), None)
                fit.add(torch.from_numpy(parts["code"]), torch.from_numpy(parts["flow"]))
    model.decoder.basis.set(fit.solve())


@torch.no_grad()
def held_out(model: MotionNetwork, data: MotionData, pairs: int) -> dict[str, float]:
    """Errors on unseen people: PSNR of whole pictures and of the mouth, flow of the mouth, codes that are read."""
    rows: list[dict[str, float]] = []
    for path in data.files("val")[:pairs]:
        pair = read_pair(path)
        batch = collate([draw_pictures(pair, p, 6, None) | {"step": 0, "slot": 0} for p in pair.people])
        made = decode_batch(model, batch, batch.code, whole(len(batch.code)))
        mouth = (..., slice(140, 250), slice(64, 192))
        row = flow_measures(made.coarse.flow, batch)
        row |= code_measures(model.encoder(batch.frames, batch.reference[batch.owner]), batch.code)
        row |= {"psnr": psnr(made.picture, batch.frames).mean()}
        row |= {"psnr_mouth": psnr(made.picture[mouth], batch.frames[mouth]).mean()}
        rows.append({name: float(value) for name, value in row.items()})
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def export(checkpoint: str, out: str, *, config: MotionConfig) -> None:
    """The EMA weights of a run that goes on, in half precision, as `finish_motion` writes them at its end."""
    state = read_checkpoint(Path(checkpoint))["state_dict"]
    prefix = "network.ema.module."
    model = MotionNetwork(config)
    model.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    write_weights(Path(out), model, gate={})


def write_weights(folder: Path, model: MotionNetwork, gate: Mapping[str, Any]) -> None:
    half = {name: tensor.half() for name, tensor in model.state_dict().items()}
    save_weights(folder, half, WeightsHeader(kind=KIND, config=model.config.to_json(), gate=gate))


def finish_motion(stage: MotionStage, data: MotionData, output: Path, *, pairs: int) -> None:
    """Write the EMA weights in half precision, and what they reach on unseen people."""
    model = stage.network.ema_model.eval()
    gate: dict[str, Any] = {**held_out(model, data, pairs), "failed": []}
    write_weights(output / "weights", model, gate)
    write_json(output / "gate.json", gate)
    log.info("gate of %s: %s", output, "  ".join(f"{k}={v:.3g}" for k, v in gate.items() if isinstance(v, float)))
