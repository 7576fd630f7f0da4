"""Networks for the toy chain, with the interface of the DiT and a thousandth of its cost."""

import itertools

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from distill.toy.chain import ExactTeacher
from gwm.block import Context
from gwm.condition.inputs import Conditions
from gwm.config import DiTConfig
from gwm.dit import Prediction
from kernels.attention import Prefix, Visible
from kernels.frame_mask import FrameMask


def level_features(sigma: Float[Tensor, "b f"]) -> Float[Tensor, "b f 4"]:
    return torch.stack([sigma, (6 * sigma).sin(), (6 * sigma).cos(), (sigma + 1e-3).log() / 4], dim=-1)


class ChainStudent(nn.Module):
    """Two layers; each adds up the values of the frames that the context shows, its own left out.

    The second layer's values are made after the first has looked at the past, so that a step on noised input can hand
    on what it understood (context=noisy).
    """

    def __init__(self, config: DiTConfig, *, width: int = 64, value_width: int = 8) -> None:
        super().__init__()
        self.config = config
        self.input = nn.Linear(1 + 4, width)
        self.values = nn.ModuleList(nn.Linear(width, value_width) for _ in range(2))
        self.layers = nn.ModuleList(nn.Linear(width + value_width, width) for _ in range(2))
        self.output = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(
        self,
        x: Float[Tensor, "b f 1 1 1"],
        sigma: Float[Tensor, "b f"],
        condition: Conditions,
        *,
        positions: Int[Tensor, "f"],
        context: Context,
        reference: Float[Tensor, "b 1 1 1 1"] | None = None,
    ) -> Prediction:
        hidden = nn.functional.silu(self.input(torch.cat([x.flatten(2), level_features(sigma)], dim=-1)))
        keys_values = []
        for number, (to_value, layer) in enumerate(zip(self.values, self.layers, strict=True)):
            own = to_value(hidden)[:, :, None]
            if (ring := context.ring(number)) is not None:
                ring.store(own, own)
            _, shown, visible = context.visible(number, own, own)
            keys_values.append((own, own))
            past = _visible_sum(visible, shown) - own
            hidden = nn.functional.silu(layer(torch.cat([hidden, past.flatten(2)], dim=-1)))
        return Prediction(self.output(hidden)[..., None, None], tuple(keys_values))


def _visible_sum(visible: Visible, values: Float[Tensor, "b s 1 e"]) -> Float[Tensor, "b l 1 e"]:
    if visible is None:
        return values.sum(1, keepdim=True)
    if isinstance(visible, FrameMask):
        visible = visible.dense
    mask = visible.bias == 0 if isinstance(visible, Prefix) else visible
    return torch.einsum("ls,bsne->blne", mask.to(values.dtype), values)


class ChainCritic(nn.Module):
    """The teacher's velocity and a correction by an MLP over the whole clip, zero at first: the critic starts as the
    teacher, as it does in the large."""

    def __init__(self, teacher: ExactTeacher, *, num_frames: int, width: int = 128) -> None:
        super().__init__()
        self.config, self.teacher = teacher.config, teacher
        self.output = nn.Linear(width, num_frames + 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        sizes = (2 * (num_frames + 1) + 4, width, width, width)
        self.layers = nn.ModuleList(nn.Linear(given, made) for given, made in itertools.pairwise(sizes))

    def forward(
        self,
        x: Float[Tensor, "b f 1 1 1"],
        sigma: Float[Tensor, "b f"],
        condition: Conditions,
        *,
        positions: Int[Tensor, "f"],
        context: Context,
        reference: Float[Tensor, "b 1 1 1 1"] | None = None,
    ) -> Prediction:
        teacher = self.teacher(x, sigma, condition, positions=positions, context=context).velocity
        x0 = x.flatten(1) - sigma * teacher.flatten(1)
        hidden = torch.cat([x.flatten(1), x0, level_features(sigma[:, -1:])[:, 0]], dim=-1)
        features = []
        for layer in self.layers:
            hidden = nn.functional.silu(layer(hidden))
            features.append((hidden[:, None, None],) * 2)  # one token a clip, in the place of keys and values
        return Prediction(teacher + self.output(hidden)[..., None, None, None], tuple(features))
