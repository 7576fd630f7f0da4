"""A world whose answer is known: a two-state Markov chain seen through Gaussian noise, with its exact score.

A clip is the reference and the latent frames after it, each one number: the state, -1 or 1, plus emission noise. The
score of noised clips is a sum over all paths of states, so nothing about the teacher is learnt or approximate.
The student and the critic have the interface of the DiT and a thousandth of its cost.
"""

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gwm.autoencoders.haar import HaarConfig
from gwm.block import Context
from gwm.chunks import ChunkPattern
from gwm.condition.inputs import Conditions
from gwm.config import AudioConfig, DiTConfig
from gwm.contract import CommitMode, Contract
from gwm.dit import Prediction
from gwm.resolution import Resolution
from kernels.attention import Prefix, Visible
from kernels.frame_mask import FrameMask

Clip = Float[Tensor, "b f 1 1 1"]
AUDIO = AudioConfig(num_mels=1, hops_per_frame=1, left_frames=0, lookahead_frames=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """Two states that swap with chance `flip` per frame, each seen with deviation `spread`."""

    num_frames: int = 6  # after the reference
    flip: float = 0.15
    spread: float = 0.15

    def clips(self, count: int, generator: torch.Generator) -> Float[Tensor, "b f 1 1 1"]:
        """Clips with their reference in front."""
        flips = torch.rand(count, self.num_frames + 1, generator=generator) < self.flip
        flips[:, 0] = torch.rand(count, generator=generator) < 0.5
        states = 1.0 - 2.0 * (flips.cumsum(1) % 2)
        return (states + self.spread * torch.randn(states.shape, generator=generator))[..., None, None, None]

    def paths(self) -> Float[Tensor, "k f"]:
        """All paths of states, the reference's included; path i has state 1 where bit f of i is set."""
        bits = [reversed(path) for path in itertools.product((-1.0, 1.0), repeat=self.num_frames + 1)]
        return torch.tensor([list(path) for path in bits])

    def path_chances(self) -> Float[Tensor, "k"]:
        swaps = (self.paths().diff(dim=1) != 0).sum(1)
        return 0.5 * self.flip**swaps * (1 - self.flip) ** (self.num_frames - swaps)


class ChainNetwork(nn.Module, ABC):
    """The interface of the DiT for networks that see latents and noise levels alone: a chain has no conditions."""

    config: DiTConfig

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
        return self.predict(x, sigma, context)

    @abstractmethod
    def predict(self, x: Float[Tensor, "b f 1 1 1"], sigma: Float[Tensor, "b f"], context: Context) -> Prediction: ...


class ExactTeacher(ChainNetwork):
    """Velocity of noised clips under the chain; the first frame is the reference, which is given.

    E[x0 | x] = sum over paths of p(path | x) (state + gain (x - a state)), a = 1 - sigma, gain = a spread^2 / var(x).
    """

    def __init__(self, chain: Chain, config: DiTConfig) -> None:
        super().__init__()
        self.config, self.spread = config, chain.spread
        self.states = chain.paths()
        self.log_chance = chain.path_chances().log()

    def predict(self, x: Float[Tensor, "b f 1 1 1"], sigma: Float[Tensor, "b f"], context: Context) -> Prediction:
        seen, a = x.flatten(1), 1 - sigma
        variance = (a * self.spread).square() + sigma.square()
        # -(x - a s)^2 / 2 var for s = -1, 1: what does not depend on s cancels in the softmax.
        evidence = (seen * a / variance) @ self.states.T + self.log_chance
        state = evidence.softmax(dim=1) @ self.states
        x0 = state + a * self.spread**2 / variance * (seen - a * state)
        velocity = (seen - x0) / sigma.clamp(min=1e-6)
        return Prediction(velocity[..., None, None, None], ())


def toy_contract(chain: Chain, *, sigmas: tuple[float, ...], context: CommitMode) -> Contract:
    """What a student of the chain is: one number a frame, chunks of one frame that see the one before."""
    dit = DiTConfig(in_channels=1, patch=1)
    return Contract(
        dit=dit,
        vae=HaarConfig(latent_channels=1, latents_mean=(0.0,), latents_std=(1.0,)),
        audio=AUDIO,
        pattern=ChunkPattern(chunk_frames=1, window_chunks=2, sink_chunks=0, first_frames=1),
        resolution=Resolution(HaarConfig.spatial_stride, HaarConfig.spatial_stride),
        sigmas=sigmas,
        solver="renoise",
        context=context,
        horizon_frames=chain.num_frames,
    )


def measures(chain: Chain, clips: Float[Tensor, "b f 1 1 1"]) -> dict[str, float]:
    """Total variation of the paths and of single values from the chain's own law, and the share of frames that flip.

    path_tv is over all 2^(f+1) paths; emission_tv over bins of 1/15 of the generated frames' values.
    """
    values = clips.flatten(1)
    states = (values > 0).long()
    index = (states * 2 ** torch.arange(values.shape[1])).sum(1)
    found = torch.bincount(index, minlength=2 ** values.shape[1]) / len(values)
    generated = values[:, 1:]
    edges = torch.linspace(-2, 2, 61)
    bins = torch.bucketize(generated.flatten(), edges)
    density = torch.bincount(bins, minlength=62) / generated.numel()
    below = [0.5 * (1 + torch.erf((edges - state) / (chain.spread * math.sqrt(2)))) for state in (-1, 1)]
    cdf = torch.stack(below).mean(0)
    expected = torch.cat([cdf[:1], cdf.diff(), 1 - cdf[-1:]])
    mode = (generated - generated.sign()).square().mean().sqrt()
    return {
        "path_tv": 0.5 * (found - chain.path_chances()).abs().sum().item(),
        "emission_tv": 0.5 * (density - expected).abs().sum().item(),
        "flips": (states.diff(dim=1) != 0).float().mean().item(),
        "spread": mode.item(),
    }


def level_features(sigma: Float[Tensor, "b f"]) -> Float[Tensor, "b f 4"]:
    return torch.stack([sigma, (6 * sigma).sin(), (6 * sigma).cos(), (sigma + 1e-3).log() / 4], dim=-1)


class ChainStudent(ChainNetwork):
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

    def predict(self, x: Float[Tensor, "b f 1 1 1"], sigma: Float[Tensor, "b f"], context: Context) -> Prediction:
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


class ChainCritic(ChainNetwork):
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

    def predict(self, x: Float[Tensor, "b f 1 1 1"], sigma: Float[Tensor, "b f"], context: Context) -> Prediction:
        teacher = self.teacher.predict(x, sigma, context).velocity
        x0 = x.flatten(1) - sigma * teacher.flatten(1)
        hidden = torch.cat([x.flatten(1), x0, level_features(sigma[:, -1:])[:, 0]], dim=-1)
        features = []
        for layer in self.layers:
            hidden = nn.functional.silu(layer(hidden))
            features.append((hidden[:, None, None],) * 2)  # one token a clip, in the place of keys and values
        return Prediction(teacher + self.output(hidden)[..., None, None, None], tuple(features))
