"""Self- and cross-attention of Wan 2.1. What a query sees besides its own tokens is the `context` it is given."""

from typing import NamedTuple, Protocol, runtime_checkable

from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gwm.config import DiTConfig
from gwm.rope import Rotation
from kernels.attention import Visible, attention
from kernels.frame_mask import FrameMask
from kernels.qk_norm_rope import Ring, qk_norm_rope

KeysValues = tuple[Float[Tensor, "b l n e"], Float[Tensor, "b l n e"]]


@runtime_checkable
class Context(Protocol):
    """What new tokens may look at. Implemented by a masked clip, by past chunks and by the ring cache."""

    def ring(self, layer: int) -> Ring | None:
        """Where the new keys and values are put before `visible` is asked; None: nowhere."""
        ...

    def visible(
        self, layer: int, k: Float[Tensor, "b l n e"], v: Float[Tensor, "b l n e"]
    ) -> tuple[Float[Tensor, "b s n e"], Float[Tensor, "b s n e"], Visible]:
        """Keys and values to attend to, those of the new tokens (rotated) included, and which of them are visible."""
        ...


class MaskedClip:
    """A whole clip that sees itself through a mask; None: everything sees everything."""

    def __init__(self, mask: Bool[Tensor, "l l"] | FrameMask | None) -> None:
        self.mask = mask

    def ring(self, layer: int) -> None:
        return None

    def visible(
        self, layer: int, k: Float[Tensor, "b l n e"], v: Float[Tensor, "b l n e"]
    ) -> tuple[Float[Tensor, "b l n e"], Float[Tensor, "b l n e"], Bool[Tensor, "l l"] | FrameMask | None]:
        return k, v, self.mask


class SelfAttention(nn.Module):
    """Multi-head attention with RMSNorm of queries and keys over all heads together."""

    def __init__(self, config: DiTConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.num_heads = layer, config.num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q = nn.RMSNorm(config.dim, eps=config.eps)
        self.norm_k = nn.RMSNorm(config.dim, eps=config.eps)

    def forward(
        self, x: Float[Tensor, "b l d"], turn: Rotation, context: Context
    ) -> tuple[Float[Tensor, "b l d"], KeysValues]:
        ring = context.ring(self.layer)
        q, k, v = qk_norm_rope(self.q(x), self.k(x), self.v(x), self.norm_q, self.norm_k, *turn, ring=ring)
        keys, values, visible = context.visible(self.layer, k, v)
        return self.o(attend(q, keys, values, visible)), (k, v)


class Prompt(NamedTuple):
    """Embedded tokens of text and, in image-to-video models, of an image."""

    text: Float[Tensor, "b s d"]
    image: Float[Tensor, "b j d"] | None


class CrossAttention(nn.Module):
    """Attention from video tokens to text tokens and, apart from them, to image tokens; without positions."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q = nn.RMSNorm(config.dim, eps=config.eps)
        self.norm_k = nn.RMSNorm(config.dim, eps=config.eps)
        self.image = ImageKeysValues(config) if config.image_dim else None

    def forward(self, x: Float[Tensor, "b l d"], prompt: Prompt) -> Float[Tensor, "b l d"]:
        heads = "b l (n e) -> b l n e"
        q = rearrange(self.norm_q(self.q(x)), heads, n=self.num_heads)
        k = rearrange(self.norm_k(self.k(prompt.text)), heads, n=self.num_heads)
        v = rearrange(self.v(prompt.text), heads, n=self.num_heads)
        seen = attend(q, k, v, None)
        if self.image is not None and prompt.image is not None:
            k, v = self.image(prompt.image)
            seen = seen + attend(q, k, v, None)
        return self.o(seen)


class ImageKeysValues(nn.Module):
    """Keys and values of image tokens: queries and output are shared with the text."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.k, self.v = nn.Linear(config.dim, config.dim), nn.Linear(config.dim, config.dim)
        self.norm_k = nn.RMSNorm(config.dim, eps=config.eps)

    def forward(self, image: Float[Tensor, "b j d"]) -> KeysValues:
        heads = "b j (n e) -> b j n e"
        k = rearrange(self.norm_k(self.k(image)), heads, n=self.num_heads)
        return k, rearrange(self.v(image), heads, n=self.num_heads)


def attend(
    q: Float[Tensor, "b l n e"], k: Float[Tensor, "b s n e"], v: Float[Tensor, "b s n e"], visible: Visible
) -> Float[Tensor, "b l n*e"]:
    """Scaled dot-product attention, heads merged again."""
    return attention(q, k, v, visible).flatten(2)
