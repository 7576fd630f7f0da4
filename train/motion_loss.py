"""Losses of the motion autoencoder: exact flow, pictures around mouth and eyes, exact codes."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from data.motion_batch import MotionBatch
from gwm.autoencoders.motion.code import ACTIONS, NAMES, POSE, WIDTH, place
from gwm.autoencoders.motion.network import Coarse, Features, MotionNetwork
from gwm.autoencoders.motion.warp import Window
from gwm.autoencoders.motion.working_frames import animated, layers

CUT = 24  # cells a side of the part of a picture that a step redraws
EDGE_PX = 4  # of it that are not judged: convolutions miss what is outside
MOUTH, EYES = (slice(36, 62), slice(16, 48)), (slice(14, 34), slice(8, 56))  # rows and columns of the flow's grid
MOUTH_SHARE, EYES_SHARE = 0.55, 0.28  # of the parts


@dataclass(frozen=True)
class Weights:
    """How much each term counts."""

    flow: float
    coarse: float
    warped: float  # the picture before anything is added: what can be moved shall be moved
    gradient: float
    perceptual: float
    redrawn: float  # share of a picture whose detail is taken away: while the flow is poor, blur is cheap
    person: float
    code: float


def code_weights() -> Float[Tensor, "57"]:
    """Jaw and pose first: what people see."""
    weight = torch.full((WIDTH,), 0.3)
    spoken = [k for k, name in enumerate(NAMES[ACTIONS]) if name.startswith(("jaw", "mouth", "eyeBlink"))]
    weight[spoken], weight[POSE] = 1.0, 3.0
    weight[[place("jawOpen"), place("eyeBlinkLeft"), place("eyeBlinkRight")]] = torch.tensor([4.0, 2.0, 2.0])
    return weight


def code_loss(
    read: Float[Tensor, "n 57"], code: Float[Tensor, "n 57"], weight: Float[Tensor, "57"]
) -> Float[Tensor, ""]:
    """Weighted squared error, bounded, so that an action that no picture shows cannot dominate."""
    return (weight * (read - code).clamp(-4, 4).square()).sum(1).mean() / weight.sum()


def draw_window(count: int, generator: torch.Generator, top: int, left: int) -> Window:
    """A part of each picture: around the mouth, around an eye, or anywhere in which a residual is made."""
    kind = torch.rand(count, generator=generator)

    def between(low: int, high: int) -> Tensor:
        return torch.randint(low, high + 1, (count,), generator=generator)

    rows = torch.where(
        kind < MOUTH_SHARE,
        between(33, 40),
        torch.where(kind < MOUTH_SHARE + EYES_SHARE, between(11, 17), between(top, 64 - CUT)),
    )
    columns = torch.where(kind < MOUTH_SHARE, between(16, 24), between(left, 64 - CUT - left))
    return Window(torch.stack([rows, columns], 1), CUT, CUT)


def flow_weight(batch: MotionBatch) -> Float[Tensor, "n 64 64"]:
    """Visible parts of the person in full, more where more moves and around mouth and eyes; its continuation behind
    and beyond it a little."""
    flat = batch.flat[batch.owner, None, None]
    weight = torch.where(batch.shown, 1 + batch.flow.norm(dim=1).clamp(max=2), 0.1)
    emphasis = torch.ones_like(weight)
    emphasis[:, *MOUTH] = 3
    emphasis[:, *EYES] = 2
    return weight * torch.where(flat, 1.0, emphasis)


def flow_loss(coarse: Coarse, batch: MotionBatch, weight: Tensor) -> Float[Tensor, ""]:
    """Mean distance in cells."""
    distance = (coarse.flow - batch.flow).square().sum(1).add(1e-4).sqrt()
    return (weight * distance).sum() / weight.sum()


def picture_loss(out: Tensor, truth: Tensor, weight: Float[Tensor, "n"], gradient: float) -> Float[Tensor, ""]:
    """L1 of pixels and of their spatial gradients at three scales."""
    loss = out.new_zeros(())
    each = (weight / weight.mean())[:, None, None, None]
    for scale in range(3):
        if scale:
            out, truth = F.avg_pool2d(out, 2), F.avg_pool2d(truth, 2)
        error = out - truth
        loss = loss + (each * error.abs()).mean()
        loss = loss + gradient * ((each * error.diff(dim=-1).abs()).mean() + (each * error.diff(dim=-2).abs()).mean())
    return loss / 3


def opened(code: Float[Tensor, "n 57"]) -> Float[Tensor, "n"]:
    """Weight of a picture: wide mouths and shut lids are rare, and L1 alone ignores rare pictures."""
    jaw, lids = code[:, place("jawOpen")], code[:, place("eyeBlinkLeft")]
    return 1 + 0.5 * jaw.clamp(0, 3) + 0.25 * lids.clamp(0, 5)


@dataclass(frozen=True)
class Decoded:
    """What the decoder makes of a batch's codes."""

    people: Features
    coarse: Coarse
    warped: Float[Tensor, "n 3 h w"]  # a window of each picture before anything is added
    picture: Float[Tensor, "n 3 h w"]
    share: Float[Tensor, "n 1 h w"]


def decode_batch(model: MotionNetwork, batch: MotionBatch, code: Float[Tensor, "n 57"], window: Window) -> Decoded:
    """Codes against the references of their pictures."""
    people = model.reference(batch.reference)
    features, parts = people.of(batch.owner), layers(people).of(batch.owner)
    coarse = model.decoder.coarse(code, features)
    return Decoded(people, coarse, *animated(model.decoder, code, coarse, features, parts, window))
