"""The streaming decoder in storage that never moves, captured as a CUDA graph like the denoiser."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gwm.autoencoders.protocol import Autoencoder, Memory, Reference
from gwm.media.framing import Framing
from gwm.transfer import to_host
from serve.graphs import Capture, captured


class StreamDecoder:
    """Latents to pixel frames, chunk by chunk: `start` it with a reference image, then call it.

    Its memory is that of a black image at first and moves on in place. Behind a reference image all latent frames are
    decoded alike: what a decoder does differently with the first of all, it does in `begin`, and one graph holds for
    every chunk. Without a graph the same body runs eagerly: the twin that defines the result.
    """

    def __init__(
        self,
        vae: Autoencoder,
        shape: tuple[int, ...],
        *,
        framing: Framing,
        capture: Capture | None,
        pasted: bool = False,
    ) -> None:
        """shape: of a chunk's latents, `1 f c h w`. framing: of reference images. capture: None for the eager twin.
        pasted: frames show the margin too, as `Autoencoder.encode_reference` says."""
        self.vae = vae
        size = (framing.kept if pasted else framing.frame).shape
        vae.fuse()
        self.latents = torch.zeros(shape, device=vae.device, dtype=vae.dtype)
        self.frames = torch.zeros(shape[1] * vae.config.temporal_stride, *size, 3, device=vae.device, dtype=torch.uint8)
        blank = blank_memory(vae, framing, pasted=pasted)
        self.memory = Memory(*(tuple(x.clone() for x in part) for part in (blank.constant, blank.moving)))
        self.replay = None
        if capture is not None:
            self.replay = captured("decoder", self._body, capture, self.device)
            self._remember(blank)  # what was decoded meanwhile is not of any stream

    @property
    def device(self) -> torch.device:
        return self.latents.device

    @torch.no_grad()
    def start(self, reference: Reference) -> None:
        """Forget the stream before; the next chunk follows this reference image."""
        self._remember(self.vae.begin(reference))

    def __call__(self, latents: Float[Tensor, "1 f c _ _"]) -> UInt8[np.ndarray, "t h w 3"]:
        """Pixel frames of the next chunk."""
        self.latents.copy_(latents)
        if self.replay is None:
            self._body()
        else:
            self.replay()
        return to_host(self.frames).numpy()

    @torch.no_grad()
    def _body(self) -> None:
        pixel_frames, memory = self.vae.decode(self.latents, self.memory)
        self.frames.copy_(pixel_frames[0])
        for static, new in zip(self.memory.moving, memory.moving, strict=True):
            static.copy_(new)

    def _remember(self, memory: Memory) -> None:
        kept, new = ((*of.constant, *of.moving) for of in (self.memory, memory))
        for static, made in zip(kept, new, strict=True):
            static.copy_(made)


@torch.no_grad()
def blank_memory(vae: Autoencoder, framing: Framing, *, pasted: bool = False) -> Memory:
    """Of a stream behind a black image."""
    black = torch.zeros(1, *framing.kept.shape, 3, dtype=torch.uint8)
    return vae.begin(vae.encode_reference(black, margin=framing.margin, pasted=pasted))
