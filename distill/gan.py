"""A discriminator on the critic's features: it separates the student's clips from data at a noise level."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from distill.dmd import DMDRules
from gwm.chunks import whole_clip
from gwm.clip import CleanClip, clip_prediction
from gwm.dit import Denoiser
from train.learner import Learner
from train.noise import Generators, gaussian_like


class Head(nn.Module):
    """One number per clip, the mean over its tokens: how real it looks. Zero at first, for all clips."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        self.layers = nn.Sequential(nn.LayerNorm(features), nn.Linear(features, width), nn.SiLU(), last)

    def forward(self, features: Float[Tensor, "b l k"]) -> Float[Tensor, "b"]:
        return self.layers(features).mean(dim=(1, 2))


class GAN(nn.Module):
    """Separates data from the student's clips by the critic's features of both, at the same noise.

    Features are the values of the critic's attention, which every prediction returns. The head's loss does not reach
    the critic, whose work stays the score; the student's loss moves neither critic nor head.
    Source: Yin et al. 2024 (DMD2), arXiv:2405.14867, Sec. 4.3 (a head on the critic, noised clips; there the critic
    learns from it too); Jolicoeur-Martineau 2018, arXiv:1807.00734, Sec. 4.1 (RSGAN: a real clip against the student's
    of the same reference and voice).
    """

    def __init__(
        self,
        *,
        features: int,
        num_layers: int,
        layers: Sequence[int],
        width: int,
        weight: float,
        schedule_steps: int,
        head: partial[Learner[Head]],
    ) -> None:
        """features: width of one of the critic's `num_layers` layers. layers: those that the head sees.
        schedule_steps: batches over which the head's learning rate decays.
        weight: of the student's loss, beside the DMD loss of mean 1/2 per latent at a direction of 1.

        Raises:
            ValueError: a layer that the critic does not have, or a weight that would push away from data.
        """
        super().__init__()
        if not layers or not all(0 <= layer < num_layers for layer in layers):
            raise ValueError(f"gan.layers={list(layers)} must be some of the critic's layers 0 to {num_layers - 1}.")
        if weight <= 0:
            raise ValueError(f"gan.weight={weight} must be > 0; stage.gan=null turns the head off.")
        self.layers, self.weight = list(layers), weight
        self.head = head(Head(features * len(layers), width), schedule_steps=schedule_steps)

    def head_loss(
        self, rules: DMDRules, real: CleanClip, fake: CleanClip, *, critic: Denoiser, generator: Generators
    ) -> Float[Tensor, ""]:
        """softplus(D(fake) - D(real)): the head learns, on features that carry no gradient."""
        sigma, noise = _draw(rules, real.x0, generator)
        with torch.no_grad():
            of_real, of_fake = (self._features(clip, sigma, noise, critic) for clip in (real, fake))
        return F.softplus(self.head.model(of_fake) - self.head.model(of_real)).mean()

    def student_loss(
        self, rules: DMDRules, real: CleanClip, fake: CleanClip, *, critic: Denoiser, generator: Generators
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """softplus(D(real) - D(fake)) times the weight, whose gradient reaches `fake.x0` and no weights; and its
        health.

        gan_gap: mean D(real) - D(fake); about 0 where the head fails. gan_norm: root mean square of the
        gradient in the unit of `dmd_norm`.
        """
        clip = fake.x0.detach().requires_grad_()
        with torch.enable_grad():
            of_real, of_fake = self.opinions(rules, real, fake.with_x0(clip), critic=critic, generator=generator)
            value = self.weight * F.softplus(of_real - of_fake).mean()
            # Towards the clip alone: critic and head would else collect gradients too.
            (pull,) = torch.autograd.grad(value, clip)
        gap = (of_real - of_fake.detach()).mean()
        health = {"gan_gap": gap, "gan_norm": pull.numel() * pull.square().mean().sqrt()}
        return value.detach() + ((fake.x0 - clip.detach()) * pull).sum(), health

    def opinions(
        self, rules: DMDRules, real: CleanClip, fake: CleanClip, *, critic: Denoiser, generator: Generators
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """D of real clips, without gradient, and of the student's clips, at the same noise."""
        sigma, noise = _draw(rules, real.x0, generator)
        with torch.no_grad():
            of_real = self.head.model(self._features(real, sigma, noise, critic))
        return of_real, self.head.model(self._features(fake, sigma, noise, critic))

    def _features(self, clip: CleanClip, sigma: Tensor, noise: Tensor, critic: Denoiser) -> Float[Tensor, "b l k"]:
        """Values of the chosen layers' attention for a noised clip."""
        pattern = whole_clip(noise.shape[1] + 1, first_frames=1)
        prediction = clip_prediction(critic, clip.noised(noise, sigma), pattern)
        values = [prediction.keys_values[layer][1].flatten(2) for layer in self.layers]
        return torch.cat(values, dim=-1)


def _draw(rules: DMDRules, x0: Tensor, generator: Generators) -> tuple[Tensor, Tensor]:
    """Noise levels as in the DMD loss, and noise; both clips of a pair get the same."""
    return rules.sigma(x0, generator), gaussian_like(x0, generator)
