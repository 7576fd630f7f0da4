"""The stream of latent chunks: the one sampler that trainer, evaluation and server share."""

import torch
from jaxtyping import Float
from torch import Tensor

from gwm.cache import RingCache
from gwm.condition.inputs import Condition
from gwm.contract import Contract
from gwm.dit import DiT, num_patches
from gwm.sampler import frame_noise, step


class Rollout:
    """A stream of chunks in one ring cache. Create it, `start` it with a reference image, then `step` for ever.

    Latents depend only on weights, contract, reference, conditions and seed.
    """

    def __init__(self, model: DiT, contract: Contract, *, batch_size: int = 1) -> None:
        self.model, self.contract, self.batch_size = model, contract, batch_size
        weight = model.head.weight
        size = contract.latent_size
        self.chunk_shape = (batch_size, contract.pattern.chunk_frames, contract.dit.in_channels, size, size)
        self.cache = RingCache(
            contract.dit,
            contract.pattern,
            patches=num_patches(torch.empty(self.chunk_shape, device="meta"), contract.dit),
            horizon_frames=contract.horizon_frames,
            batch_size=batch_size,
            device=weight.device,
            dtype=weight.dtype,
        )
        self.frame = 0  # host copy of the cache's frame counter: it seeds the noise
        self.seed = 0
        self.reference: Tensor | None = None

    @torch.no_grad()
    def start(self, reference: Float[Tensor, "b 1 c h w"], condition: Condition, *, seed: int) -> None:
        """Forget everything and put the reference image's latent into the sink; of `condition` only the text counts."""
        self.cache.reset()
        self.frame, self.seed, self.reference = 0, seed, reference
        self._commit(reference, condition.frames(slice(0, 0)).after_reference())

    @torch.no_grad()
    def step(self, condition: Condition) -> Float[Tensor, "b f c h w"]:
        """Generate the next chunk under the conditions of its frames and fix it in the cache."""
        contract = self.contract
        sigmas = contract.sigmas
        self.cache.follow(contract.pattern.chunk_frames)
        x = self._noise(0)
        for k, sigma in enumerate(sigmas):
            sigma_next = sigmas[k + 1] if k + 1 < len(sigmas) else 0.0
            fresh = self._noise(k + 1) if contract.solver == "renoise" and sigma_next > 0 else None
            velocity = self._velocity(x, sigma, condition)
            x = step(x, velocity, sigma=sigma, sigma_next=sigma_next, solver=contract.solver, noise=fresh)
        if contract.context == "clean":
            self._commit(x, condition)
        else:
            self._advance(x.shape[1])
        return x

    def _velocity(self, x: Tensor, sigma: float, condition: Condition) -> Tensor:
        positions = self.cache.positions(x.shape[1])
        levels = x.new_full(x.shape[:2], sigma)
        prediction = self.model(x, levels, condition, positions=positions, context=self.cache, reference=self.reference)
        return prediction.velocity

    def _commit(self, x0: Tensor, condition: Condition) -> None:
        self._velocity(x0, 0.0, condition)
        self._advance(x0.shape[1])

    def _advance(self, num_frames: int) -> None:
        self.cache.advance(num_frames)
        self.frame += num_frames

    def _noise(self, k: int) -> Tensor:
        noise = frame_noise(self.chunk_shape, seed=self.seed, frame=self.frame, step=k)
        return noise.to(self.cache.k)
