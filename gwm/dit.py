"""The video DiT: Wan to the bit of its mathematics, with a noise level per latent frame and per-frame conditions.

Axes: b batch, f latent frames, c channels, h w latent grid, p patches per frame, l = f*p tokens, d width.
"""

import math
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from gwm.block import Branch, Context, DiTBlock, KeysValues, Prompt, PromptTokens, SelfAttention
from gwm.cache import PromptCache
from gwm.condition.inputs import Conditions
from gwm.condition.spec import ConditionSpec
from gwm.condition.speech_encoder import SpeechEncoder
from gwm.config import DiTConfig
from gwm.control import CONTROL, ControlBlocks
from gwm.rope import rotation
from kernels.linear import Linear
from kernels.residual_norm import residual_norm

MIN_SIGMA = 0.05  # of a velocity towards a predicted x0, which would else divide by zero


class Prediction(NamedTuple):
    velocity: Float[Tensor, "b f c h w"]  # noise - x0
    keys_values: tuple[KeysValues, ...]  # of the new tokens, one pair per layer, keys rotated


@runtime_checkable
class Denoiser(Protocol):
    """What distillation needs of a network: the DiT, or a small one whose answer is known (`distill.toy`)."""

    config: DiTConfig

    def __call__(
        self,
        x: Float[Tensor, "b f c h w"],
        sigma: Float[Tensor, "b f"],
        condition: Conditions,
        *,
        positions: Int[Tensor, "f"],
        context: Context,
        reference: Float[Tensor, "b 1 c h w"] | None = None,
    ) -> Prediction: ...


def sinusoid(sigma: Float[Tensor, "b f"], dim: int) -> Float[Tensor, "b f dim"]:
    """Cosines, then sines, of 1000 sigma at geometric frequencies, in float64 as in Wan 2.1."""
    half = dim // 2
    frequency = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float64, device=sigma.device) / half)
    angle = 1000 * sigma.double()[..., None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1).float()


class FrameEmbedding(nn.Module):
    """A condition of each latent frame (what is heard, an action) to a vector added to the time embedding; the last
    layer starts at zero, so that a pretrained model is not disturbed."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        last = nn.Linear(dim, dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(features, dim), nn.SiLU(), last)

    def forward(self, condition: Float[Tensor, "b f k"]) -> Float[Tensor, "b f d"]:
        return self.layers(condition)


class ImageEmbedding(nn.Sequential):
    """Tokens of an image encoder to the width of the model, as Wan 2.1 has them. Where the spec has `places`, each
    token is given its own numbers first: those of a first picture, then those of a last one (Wan 2.1 FLF2V)."""

    def __init__(self, spec: ConditionSpec, dim: int) -> None:
        super().__init__(  # the exact GELU here, its approximation everywhere else
            nn.LayerNorm(spec.width),
            nn.Linear(spec.width, spec.width),
            nn.GELU(),
            nn.Linear(spec.width, dim),
            nn.LayerNorm(dim),
        )
        self.place = nn.Parameter(torch.zeros(spec.places, spec.width)) if spec.places else None

    def forward(self, input: Float[Tensor, "b j i"]) -> Float[Tensor, "b j d"]:
        if self.place is None:
            return super().forward(input)
        if input.shape[1] != len(self.place):
            raise ValueError(
                f"image has {input.shape[1]} tokens, must have {len(self.place)}: those of a first, then of a last one."
            )
        return super().forward(input + self.place)


def token_embedding(spec: ConditionSpec, dim: int) -> nn.Sequential:
    """Tokens of a text or of an image encoder to the width of the model."""
    if spec.encoder == "text":
        return nn.Sequential(nn.Linear(spec.width, dim), nn.GELU("tanh"), nn.Linear(dim, dim))
    return ImageEmbedding(spec, dim)


def velocity_towards(
    x0: Float[Tensor, "b f c h w"], x: Float[Tensor, "b f c h w"], sigma: Float[Tensor, "b f"]
) -> Float[Tensor, "b f c h w"]:
    """Velocity at `x` of the straight path that ends in `x0`; levels below MIN_SIGMA count as that.

    Source: Li and He 2025, arXiv:2511.13720, Eq. 6 (a network narrower than a patch predicts x0 and not noise).
    """
    return (x - x0) / sigma.clamp(min=MIN_SIGMA)[..., None, None, None].to(x.dtype)


class DiT(nn.Module):
    """Velocity of noised latents. One set of weights for every use: what the tokens see is decided by `context`.

    Source: Wan Team 2025, arXiv:2503.20314, Sec. 4.2; per-frame noise levels as in arXiv:2407.01392.
    """

    first_row = 0  # row of patches with which latents begin; > 0 in a copy that computes a lower strip of a picture

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Linear(config.input_features, config.dim)
        self.place_embedding = None
        if config.place_grid:
            self.place_embedding = nn.Parameter(torch.randn(math.prod(config.place_grid), config.dim) / 2)
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_dim, config.dim), nn.SiLU(), nn.Linear(config.dim, config.dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(config.dim, 6 * config.dim))
        tokens, frame = config.of_rate("tokens"), config.of_rate("frame")
        self.token_embeddings = nn.ModuleDict({spec.name: token_embedding(spec, config.dim) for spec in tokens})
        self.speech_encoder = None
        if config.speech_width:
            self.speech_encoder = SpeechEncoder(config.speech_width, config.speech_mels).requires_grad_(False)
        self.frame_embeddings = nn.ModuleDict(
            {spec.name: FrameEmbedding(self._features(spec), config.dim) for spec in frame}
        )
        self.blocks = nn.ModuleList(DiTBlock(config, layer) for layer in range(config.num_layers))
        self.control = ControlBlocks(config) if config.control_layers else None
        self.norm_out = nn.LayerNorm(config.dim, eps=config.eps, elementwise_affine=False)
        self.modulation_out = nn.Parameter(torch.randn(2, config.dim) / config.dim**0.5)
        self.head = nn.Linear(config.dim, config.patch_features)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        x: Float[Tensor, "b f c h w"],
        sigma: Float[Tensor, "b f"],
        condition: Conditions,
        *,
        positions: Int[Tensor, "f"],
        context: Context,
        reference: Float[Tensor, "b 1 c h w"] | None = None,
        prompt_cache: PromptCache | None = None,
    ) -> Prediction:
        """Predict noise - x0 for every frame, `sigma` in [0, 1] per frame; `positions` are absolute latent frames.

        prompt_cache: keeps what every pass would make anew of text and image; for sampling, without gradient.

        Raises:
            ValueError: a condition that the model was built with, or the reference's latent, is not given.
        """
        rows, columns = x.shape[-2] // self.config.patch, x.shape[-1] // self.config.patch
        inputs = [x]
        if self.config.around_reference:
            if reference is None:
                raise ValueError("reference is None, must be the reference's latent: the model predicts around it.")
            inputs.append(reference.to(x.dtype).expand_as(x))
        inputs += [condition[spec.name] for spec in self.config.of_rate("channels")]
        tokens = self.patch_embedding(patched(torch.cat(inputs, dim=2), self.config.patch))
        if self.place_embedding is not None:
            tokens = tokens + self.place_embedding[self.first_row * columns :][: rows * columns]
        rotations = rotation(positions, rows, columns, self.config.head_dim, first_row=self.first_row)
        embedding = self._frame_embedding(sigma, condition)
        modulation = self.time_projection(embedding).unflatten(-1, (6, self.config.dim))
        prompt = self._prompt(condition, prompt_cache)
        branch: Branch = Branch()
        keys_values: list[KeysValues] = []
        added: dict[int, Tensor] = {}
        if self.control is not None:
            channels = patched(condition[CONTROL], self.config.patch)
            added = self.control(channels, tokens, modulation, rotations, context, prompt)
        for layer, block in enumerate(self.blocks):
            tokens, branch, new = block(tokens, branch, modulation, rotations, context, prompt)
            keys_values.append(new)
            if layer in added:
                tokens = tokens + added[layer]
        shift, scale = (self.modulation_out + embedding[:, :, None])[:, :, :, None].unbind(2)
        _, h = residual_norm(tokens, *branch, self.norm_out, scale, shift)
        patches = self.head(h)
        velocity = rearrange(
            patches,
            "b f (h w) (i j c) -> b f c (h i) (w j)",  # Wan orders the head's features with the channel last
            h=rows,
            i=self.config.patch,
            j=self.config.patch,
        )
        if self.config.around_reference and reference is not None:
            velocity = velocity_towards(reference + velocity, x, sigma)
        return Prediction(velocity, tuple(keys_values))

    def pack(self) -> None:
        """Let every block project to queries, keys and values by one product; see `SelfAttention.pack`."""
        for block in self.blocks:
            assert isinstance(block, DiTBlock)
            block.attention.pack()

    def order(self, rows: int | None, *, attention: bool) -> None:
        """Compute the blocks' products on a CPU by oneDNN from now on, without gradient; see `Linear.order`.

        rows: tokens of a pass; None: by PyTorch's own products again.
        attention: past chunks are attended to by such products too, which pays for many tokens.
        """
        for part in self.blocks.modules():
            if isinstance(part, Linear):
                part.order(rows)
            if isinstance(part, SelfAttention):
                part.by_products = attention and rows is not None

    def _frame_embedding(self, sigma: Float[Tensor, "b f"], condition: Conditions) -> Float[Tensor, "b f d"]:
        embedding = self.time_embedding(sinusoid(sigma, self.config.freq_dim).to(self.head.weight.dtype))
        for part in self.added(condition):
            embedding = embedding + part
        return embedding

    def added(self, condition: Conditions) -> list[Float[Tensor, "b f d"]]:
        """What each condition of a latent frame adds to its time embedding.

        Raises:
            ValueError: a condition that the model was built with is not given.
        """
        parts = []
        for spec in self.config.of_rate("frame"):
            values = condition[spec.name]
            if spec.encoder == "speech" and self.speech_encoder is not None:
                values = self.speech_encoder(values)
            parts.append(self.frame_embeddings[spec.name](values))
        return parts

    def _features(self, spec: ConditionSpec) -> int:
        """Width of a frame condition as its embedding sees it."""
        if spec.encoder == "speech" and self.speech_encoder is not None:
            return self.speech_encoder.features
        return spec.width

    def _prompt(self, condition: Conditions, cache: PromptCache | None) -> Prompt | None:
        if not self.token_embeddings:
            return None
        if cache is not None and cache.known:
            return cache
        text, *image = (embedding(condition[name]) for name, embedding in self.token_embeddings.items())
        tokens = PromptTokens(text, image[0] if image else None)
        return tokens if cache is None else cache.recompute(tokens)


def patched(x: Float[Tensor, "b f c h w"], side: int) -> Float[Tensor, "b f p k"]:
    """Latents as patches."""
    return rearrange(x, "b f c (h i) (w j) -> b f (h w) (c i j)", i=side, j=side)


def num_patches(x: Float[Tensor, "b f c h w"], config: DiTConfig) -> int:
    """Tokens per latent frame."""
    return (x.shape[-2] // config.patch) * (x.shape[-1] // config.patch)
