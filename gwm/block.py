"""One layer of the DiT: self-attention, attention to text and image, MLP, as in Wan 2.1. The `context` argument decides
which keys a query sees besides those of its own tokens."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gwm.config import DiTConfig
from gwm.rope import Rotation
from kernels.attention import Prefix, Ring, Visible, attention, qk_norm_rope
from kernels.frame_mask import FrameMask
from kernels.linear import Linear, prefix_by_products
from kernels.residual_norm import residual_norm
from kernels.rms_norm import rms_norm

# Names of the linear layers of a block, in attentions and in the MLP: for adapters, converters and parallel plans.
PROJECTIONS, MLP = ("q", "k", "v", "o"), ("0", "2")

KeysValues = tuple[Float[Tensor, "b l n e"], Float[Tensor, "b l n e"]]
Committed = tuple[Float[Tensor, "b _ n e"], Float[Tensor, "b _ n e"]]  # as KeysValues, but differing in length


@runtime_checkable
class Context(Protocol):
    """The keys that new tokens may attend to: of a masked clip, of past chunks, or of the ring cache."""

    def ring(self, layer: int) -> Ring | None:
        """The slots into which new keys and values are written before `visible` is called; None: they are not
        written."""
        ...

    def visible(
        self, layer: int, k: Float[Tensor, "b l n e"], v: Float[Tensor, "b l n e"]
    ) -> tuple[Float[Tensor, "b s n e"], Float[Tensor, "b s n e"], Visible]:
        """Keys and values to attend to, those of the new tokens (rotated) included, and which of them are visible."""
        ...


class MaskedClip:
    """A whole clip under an attention mask; None: every token sees every other one."""

    def __init__(self, mask: Bool[Tensor, "l l"] | FrameMask | None) -> None:
        self.mask = mask

    def ring(self, layer: int) -> None:
        return None

    def visible(
        self, layer: int, k: Float[Tensor, "b l n e"], v: Float[Tensor, "b l n e"]
    ) -> tuple[Float[Tensor, "b l n e"], Float[Tensor, "b l n e"], Bool[Tensor, "l l"] | FrameMask | None]:
        return k, v, self.mask


class Projections(nn.Module):
    """What both attentions have: four projections, and RMSNorm of queries and keys over all heads together."""

    q: nn.Linear  # or of an adapter, a quantised layer, a part of one
    k: nn.Linear
    v: nn.Linear

    def __init__(self, config: DiTConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.num_heads = layer, config.num_heads
        self.q, self.k, self.v, self.o = (Linear(config.dim, config.dim) for _ in PROJECTIONS)
        self.norm_q = nn.RMSNorm(config.dim, eps=config.eps)
        self.norm_k = nn.RMSNorm(config.dim, eps=config.eps)


class SelfAttention(Projections):
    """Multi-head attention of the tokens to themselves and to what the context shows."""

    packed: tuple[Tensor, Tensor] | None = None  # weight and bias of the three projections in one storage
    by_products = False  # past chunks are attended to by oneDNN's products, one head after the other; on CPUs

    def pack(self) -> None:
        """Compute queries, keys and values by one matrix product instead of three from now on. The weights then lie
        together: they may change in place but must not be replaced. Quantised or adapted layers stay as they are."""
        layers = (self.q, self.k, self.v)
        if self.packed is not None or any(type(layer) is not Linear for layer in layers):
            return
        if any(type(layer.weight.data) is not Tensor for layer in layers):
            return
        weight, bias = (torch.cat(parts) for parts in zip(*((x.weight.data, x.bias.data) for x in layers), strict=True))
        for layer, own_weight, own_bias in zip(layers, weight.chunk(3), bias.chunk(3), strict=True):
            layer.weight.data, layer.bias.data = own_weight, own_bias
        self.packed = weight, bias

    def project(self, x: Float[Tensor, "b l d"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all heads, not normalised."""
        if self.packed is None:
            return self.q(x), self.k(x), self.v(x)
        q, k, v = F.linear(x, *self.packed).chunk(3, dim=-1)
        return q, k, v

    def forward(
        self, x: Float[Tensor, "b l d"], rotation: Rotation, context: Context
    ) -> tuple[Float[Tensor, "b l d"], KeysValues]:
        ring = context.ring(self.layer)
        q, k, v = qk_norm_rope(*self.project(x), self.norm_q, self.norm_k, *rotation, ring=ring)
        keys, values, visible = context.visible(self.layer, k, v)
        if self.by_products and isinstance(visible, Prefix):
            return self.o(prefix_by_products(q, keys, values, int(visible.length)).flatten(2)), (k, v)
        return self.o(attend(q, keys, values, visible)), (k, v)


@runtime_checkable
class Prompt(Protocol):
    """What cross-attention looks at: a text and, in image-to-video models, an image."""

    def keys_values(self, layer: "CrossAttention") -> tuple[Committed, ...]:
        """Keys and values of one layer: those of the text, and those of the image where there is one."""
        ...


class PromptTokens(NamedTuple):
    """Embedded tokens whose keys and values are computed in every pass, as training needs."""

    text: Float[Tensor, "b s d"]
    image: Float[Tensor, "b j d"] | None

    def keys_values(self, layer: "CrossAttention") -> tuple[Committed, ...]:
        return layer.keys_values(self)


class CrossAttention(Projections):
    """Attention from video tokens to text tokens and, apart from them, to image tokens; without positions."""

    def __init__(self, config: DiTConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.image = ImageKeysValues(config) if len(config.of_rate("tokens")) > 1 else None

    def forward(self, x: Float[Tensor, "b l d"], prompt: Prompt) -> Float[Tensor, "b l d"]:
        q = rms_norm(self.q(x), self.norm_q).unflatten(-1, (self.num_heads, -1))
        text, *image = prompt.keys_values(self)
        seen = attend(q, *text, None)
        for keys_values in image:
            seen = seen + attend(q, *keys_values, None)
        return self.o(seen)

    def keys_values(self, tokens: PromptTokens) -> tuple[Committed, ...]:
        """Keys and values of text and image: the same in every chunk and step."""
        k, v = self.norm_k(self.k(tokens.text)), self.v(tokens.text)
        text = tuple(z.unflatten(-1, (self.num_heads, -1)) for z in (k, v))
        if self.image is None or tokens.image is None:
            return (text,)
        return text, self.image(tokens.image)


class ImageKeysValues(nn.Module):
    """Keys and values of image tokens: queries and output are shared with the text."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.k, self.v = nn.Linear(config.dim, config.dim), nn.Linear(config.dim, config.dim)
        self.norm_k = nn.RMSNorm(config.dim, eps=config.eps)

    def forward(self, image: Float[Tensor, "b j d"]) -> KeysValues:
        k, v = (z.unflatten(-1, (self.num_heads, -1)) for z in (self.norm_k(self.k(image)), self.v(image)))
        return k, v


def attend(
    q: Float[Tensor, "b l n e"], k: Float[Tensor, "b s n e"], v: Float[Tensor, "b s n e"], visible: Visible
) -> Float[Tensor, "b l n*e"]:
    """Scaled dot-product attention, heads merged again."""
    return attention(q, k, v, visible).flatten(2)


class Branch(NamedTuple):
    """What a layer adds to the residual stream: gate y; nothing before the first layer."""

    y: Float[Tensor, "b f p d"] | None = None
    gate: Float[Tensor, "b f 1 d"] | None = None


class DiTBlock(nn.Module):
    """Self-attention, optional text cross-attention and MLP, modulated by one vector per latent frame."""

    def __init__(self, config: DiTConfig, layer: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=config.eps, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(config.dim, eps=config.eps, elementwise_affine=False)
        self.attention = SelfAttention(config, layer)
        has_tokens = bool(config.of_rate("tokens"))
        self.text_norm = nn.LayerNorm(config.dim, eps=config.eps) if has_tokens else None
        self.text_attention = CrossAttention(config, layer) if has_tokens else None
        self.ffn = nn.Sequential(
            Linear(config.dim, config.ffn_dim), nn.GELU("tanh"), Linear(config.ffn_dim, config.dim)
        )
        self.modulation = nn.Parameter(torch.randn(6, config.dim) / config.dim**0.5)

    def forward(
        self,
        x: Float[Tensor, "b f p d"],
        branch: Branch,
        modulation: Float[Tensor, "b f 6 d"],
        rotation: Rotation,
        context: Context,
        prompt: Prompt | None,
    ) -> tuple[Float[Tensor, "b f p d"], Branch, KeysValues]:
        """The residual stream and, without gradient, what is still to be added: the next norm does both in one pass."""
        # Modulation and the residual stream stay in float32 under autocast, as in Wan 2.1.
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation + modulation)[:, :, :, None].unbind(2)
        frames, gate = x.shape[1], gate1
        x, h = residual_norm(x, *branch, self.norm1, scale1, shift1)
        y, keys_values = self.attention(h.flatten(1, 2), rotation, context)
        if self.text_attention is not None and self.text_norm is not None and prompt is not None:
            x, h = residual_norm(x, y.unflatten(1, (frames, -1)), gate1, self.text_norm, None, None)
            y, gate = self.text_attention(h.flatten(1, 2), prompt), None
        x, h = residual_norm(x, y.unflatten(1, (frames, -1)), gate, self.norm2, scale2, shift2)
        y = self.ffn(h)
        if torch.is_grad_enabled():  # what is computed again in the backward pass then has one tensor to keep, not two
            return x + gate2 * y, Branch(), keys_values
        return x, Branch(y, gate2), keys_values
