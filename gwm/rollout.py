"""The stream of latent chunks, with or without guidance: the one sampler that trainer, evaluation and server share."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gwm.cache import PromptCache, RingCache
from gwm.condition.inputs import Conditions
from gwm.contract import Contract
from gwm.dit import DiT, num_patches
from gwm.guidance import Guidance, with_guidance
from gwm.sampler import Sampler, frame_noise, sample
from gwm.transfer import to_device

Emit = Callable[[Float[Tensor, "b f c h w"]], None]


def keep(latents: Float[Tensor, "b f c h w"]) -> None:
    """An `emit` that does nothing."""


class Rollout:
    """A stream of chunks in one ring cache. Create it, `start` it with a reference image, then `step` for ever.

    Latents depend only on weights, contract, reference, conditions and seed.
    """

    def __init__(
        self,
        model: DiT,
        contract: Contract,
        *,
        batch_size: int = 1,
        grid: tuple[int, int] | None = None,
        cache: Callable[..., RingCache] = RingCache,
    ) -> None:
        """grid: rows and columns of latents, where they are a part of the contract's. cache: makes another one."""
        self.model, self.contract, self.batch_size = model, contract, batch_size
        weight = model.head.weight
        rows, columns = grid or contract.latent_grid
        self.chunk_shape = (batch_size, contract.pattern.chunk_frames, contract.dit.in_channels, rows, columns)
        self.picture_shape = self.chunk_shape
        self.sampler: Sampler = sample  # another one edits what is known (`gwm.editing`)
        self.cache = cache(
            contract.dit,
            contract.pattern,
            patches=num_patches(torch.empty(self.chunk_shape, device="meta"), contract.dit),
            horizon_frames=contract.sink_distance,
            batch_size=batch_size,
            device=weight.device,
            dtype=weight.dtype,
        )
        self.prompt = PromptCache(contract.dit.num_layers)
        self.prompt_tensors: dict[str, Tensor] = {}  # tokens that `prompt` is of
        self.frame = 0  # host copy of the cache's frame counter: it seeds the noise
        self.seed = 0
        # In one place for good, like the cache: a captured graph reads it there.
        self.reference = torch.zeros(batch_size, 1, *self.chunk_shape[2:], device=weight.device, dtype=weight.dtype)

    @torch.no_grad()
    def start(self, reference: Float[Tensor, "b 1 c h w"] | None, condition: Conditions, *, seed: int) -> None:
        """Forget everything and put the reference image's latent into the sink; of `condition` only the text counts.
        Without a reference the stream begins with its first chunk."""
        self.cache.reset()
        self.frame, self.seed = 0, seed
        self.prompt.forget()  # the weights may be others by now
        self.set_prompt(condition)
        if reference is None:
            return
        self.reference.copy_(self.own(reference))
        self.velocity(self.reference, 0.0, condition.frames(slice(0, 0)).after_reference())
        self.cache.advance(reference.shape[1])
        self.frame += reference.shape[1]

    @torch.no_grad()
    def step(self, condition: Conditions, emit: Emit = keep) -> Float[Tensor, "b f c h w"]:
        """Generate the next chunk under the conditions of its frames and fix it in the cache.

        `emit` is called with the latents as soon as they are final, before the pass that fixes them.
        """
        self.set_prompt(condition)
        x = self.generate(self.noises(), condition, emit)
        self.frame += x.shape[1]
        return x

    def set_prompt(self, condition: Conditions) -> None:
        """Call before a chunk. If the tokens are new tensors, the next pass computes their keys and values."""
        if not self.has_prompt(condition):
            self.prompt_tensors = dict(condition.tokens)
            self.prompt.forget()

    def has_prompt(self, condition: Conditions) -> bool:
        """Whether the tokens are the tensors of the current prompt; their numbers are not compared."""
        tokens, names = condition.tokens, self.prompt_tensors.keys()
        return tokens.keys() == names and all(tokens[name] is self.prompt_tensors[name] for name in names)

    def noises(self) -> list[Float[Tensor, "b f c h w"]]:
        """All noise of the next chunk: what it starts from, and what `renoise` adds before each later step."""
        count = len(self.contract.sigmas) if self.contract.solver == "renoise" else 1
        shape, frame = self.picture_shape, self.frame
        if self.contract.noise == "held":
            shape, frame = (shape[0], 1, *shape[2:]), 0
        drawn = [frame_noise(shape, seed=self.seed, frame=frame, step=k) for k in range(count)]
        # Each frame in storage of its own: a graph is handed new noise in the place of the old.
        draws = [self.own(noise.expand(self.picture_shape)).contiguous() for noise in drawn]
        return [to_device(noise, self.cache.k.device, self.cache.k.dtype) for noise in draws]

    def own(self, x: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b f c _ w"]:
        """The part of a picture that this process computes: all of it."""
        return x

    @torch.no_grad()
    def generate(
        self, noises: Sequence[Float[Tensor, "b f c h w"]], condition: Conditions, emit: Emit = keep
    ) -> Float[Tensor, "b f c h w"]:
        """All a chunk does on the device: it reads and moves the cache, and nothing waits for the host.

        `frame`, the host's counter, is the caller's to move: this body may be captured once and replayed.
        """
        contract = self.contract
        self.cache.follow(contract.pattern.chunk_frames)

        def velocity(x: Tensor, sigma: float) -> Tensor:
            return self.velocity(x, sigma, condition)

        x = self.sampler(velocity, noises, sigmas=contract.sigmas, solver=contract.solver)
        if condition.override:
            x = self._overridden(x, condition.override)
        emit(x)
        if contract.context == "clean":
            self.velocity(x, 0.0, condition)
        self.cache.advance(x.shape[1])
        return x

    def _overridden(
        self, x: Float[Tensor, "b f c h w"], override: Mapping[str, Float[Tensor, "b f c _ w"]]
    ) -> Float[Tensor, "b f c h w"]:
        """Replace the numbers that a caller has set, by their share, before the latents are emitted and committed. All
        others stay equal to the bit."""
        share, value = self.own(override["share"]).float(), self.own(override["value"]).float()
        return torch.where(share > 0, torch.lerp(x.float(), value, share).to(x.dtype), x)

    @torch.no_grad()
    def velocity(
        self, x: Float[Tensor, "b f c h w"], sigma: float, condition: Conditions
    ) -> Float[Tensor, "b f c h w"]:
        """One pass of the network over the current chunk; its keys and values are written into the cache."""
        positions = self.cache.positions(x.shape[1])
        # As in training: bfloat16 has no 0.833.
        levels = x.new_full(x.shape[:2], sigma, dtype=torch.promote_types(x.dtype, torch.float32))
        return self.model(
            x,
            levels,
            condition,
            positions=positions,
            context=self.cache,
            reference=self.reference,
            prompt_cache=self.prompt,
        ).velocity


@dataclass(frozen=True)
class Guided:
    """The guidance of a stream, and the tokens that stand for a dropped prompt: those of the empty prompt or of a
    negative one."""

    guidance: Guidance
    nothing: Mapping[str, Float[Tensor, "_ _"]]


class GuidedRollout(Rollout):
    """A rollout whose velocity is guided. Each branch without a condition has a cache of its own, in which that
    condition was never given; the latents of all branches are the same."""

    def __init__(self, model: DiT, contract: Contract, guided: Guided) -> None:
        super().__init__(model, contract)
        self.guided = guided
        self.without = [Rollout(model, contract) for _ in range(guided.guidance.num_passes(contract.dit) - 1)]
        for rollout in self.without:
            rollout.reference = self.reference

    @torch.no_grad()
    def start(self, reference: Float[Tensor, "b 1 c h w"] | None, condition: Conditions, *, seed: int) -> None:
        for rollout in self.without:
            rollout.cache.reset()
            rollout.prompt.forget()
        super().start(reference, condition, seed=seed)
        if reference is not None:
            for rollout in self.without:
                rollout.cache.advance(reference.shape[1])

    def set_prompt(self, condition: Conditions) -> None:
        if not self.has_prompt(condition):
            for rollout in self.without:
                rollout.prompt.forget()
        super().set_prompt(condition)

    @torch.no_grad()
    def generate(
        self, noises: Sequence[Float[Tensor, "b f c h w"]], condition: Conditions, emit: Emit = keep
    ) -> Float[Tensor, "b f c h w"]:
        for rollout in self.without:
            rollout.cache.follow(self.contract.pattern.chunk_frames)
        x = super().generate(noises, condition, emit)
        for rollout in self.without:
            rollout.cache.advance(x.shape[1])
        return x

    @torch.no_grad()
    def velocity(
        self, x: Float[Tensor, "b f c h w"], sigma: float, condition: Conditions
    ) -> Float[Tensor, "b f c h w"]:
        """One pass for each branch; each writes its keys and values into its own cache."""
        own, passes = super().velocity, iter(self.without)

        def predict(condition: Conditions) -> Tensor:
            if condition is given:  # the first of all passes
                return own(x, sigma, condition)
            return next(passes).velocity(x, sigma, condition)

        given = dataclasses.replace(condition, nothing=self.guided.nothing)
        return with_guidance(predict, given, self.guided.guidance)[1]
