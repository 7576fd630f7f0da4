"""Reward, end of the episode and recorded state of a world, read from latents by a small network."""

from collections import deque
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gwm.files.json_text import JsonConfig
from gwm.weights import load_weights, read_header

KIND = "outcome"  # in the header of weights
FOLDER = "outcome"  # inside an artifact


@dataclass(frozen=True, kw_only=True, slots=True)
class OutcomeConfig(JsonConfig):
    latent_channels: int
    state: int = 0  # numbers of the recorded state
    frames: int = 4  # latent frames that are seen: the one that is judged, and those before it
    width: int = 64
    learned_end: bool = False  # whether the data had an episode's end to learn from; else none is ever seen


@dataclass(frozen=True)
class Outcome:
    """Of a latent frame."""

    reward: Float[Tensor, " b"]  # summed over its pixel frames; an expectation
    ended: Float[Tensor, " b"]  # chance that the episode ends in it
    state: Float[Tensor, "b s"]  # at its end, in the data's units


class FeaturePoints(nn.Module):
    """Where each feature is in the picture, as shares of it from -1 to 1 to the right and down: the mean place under a
    softmax over the cells; and the features themselves, pooled to 4 x 4.

    Source: Levine et al. 2016, arXiv:1504.00702, Sec. 5.1 (spatial softmax).
    """

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n"]:
        share = features.flatten(2).softmax(-1).view_as(features)
        down, right = (torch.linspace(-1, 1, size, device=features.device) for size in features.shape[-2:])
        points = [(share.sum(2) * right).sum(-1), (share.sum(3) * down).sum(-1)]
        return torch.cat([*points, F.adaptive_avg_pool2d(features, 4).flatten(1)], dim=1)


class OutcomeHead(nn.Module):
    """Some latent frames to the outcome of the last one."""

    state_mean: Tensor
    state_std: Tensor

    def __init__(self, config: OutcomeConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.layers = nn.Sequential(
            nn.Conv2d(config.frames * config.latent_channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            FeaturePoints(),
            nn.Linear((2 + 16) * width, 2 * width),
            nn.ReLU(),
        )
        self.head = nn.Linear(2 * width, 2 + config.state)
        self.register_buffer("state_mean", torch.zeros(config.state))
        self.register_buffer("state_std", torch.ones(config.state))

    def forward(self, latents: Float[Tensor, "b f c h w"]) -> Outcome:
        reward, ended, state = self.raw(latents)
        chance = ended.sigmoid() if self.config.learned_end else torch.zeros_like(ended)
        return Outcome(reward, chance, state * self.state_std + self.state_mean)

    def raw(
        self, latents: Float[Tensor, "b f c h w"]
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"], Float[Tensor, "b s"]]:
        """Reward, logit of the end, and standardised state."""
        numbers = self.head(self.layers(latents.flatten(1, 2)))
        return numbers[:, 0], numbers[:, 1], numbers[:, 2:]


class OutcomeStream:
    """The head along one stream; before it the reference image is seen."""

    def __init__(self, head: OutcomeHead) -> None:
        self.head = head
        self.seen: deque[Float[Tensor, "1 c h w"]] = deque(maxlen=head.config.frames)

    def start(self, reference: Float[Tensor, "1 1 c h w"]) -> None:
        self.seen.extend(reference[:, 0].clone() for _ in range(self.head.config.frames))

    @torch.no_grad()
    def __call__(self, latents: Float[Tensor, "1 f c h w"]) -> list[Outcome]:
        """The outcome of each of the next latent frames."""
        found = []
        for latent in latents.unbind(1):
            self.seen.append(latent.clone())
            found.append(self.head(torch.stack(list(self.seen), dim=1)))
        return found


def load_outcome(folder: Path, *, latent_channels: int) -> OutcomeHead:
    """Load what `train.outcome` wrote.

    Raises:
        FileNotFoundError, ValueError: as `gwm.weights.read_header` and `load_weights`, or the head is of other latents.
    """
    config = OutcomeConfig.from_json(read_header(folder, kind=KIND).config)
    if config.latent_channels != latent_channels:
        raise ValueError(
            f"outcome={folder} is of latents with {config.latent_channels} channels, must be of {latent_channels}, the "
            "artifact's. Train it again: python -m train.outcome"
        )
    head = OutcomeHead(config)
    load_weights(folder, head)
    return head.eval().requires_grad_(False)
