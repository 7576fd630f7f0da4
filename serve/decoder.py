"""The streaming decoder in storage that never moves, captured as a CUDA graph like the denoiser."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gwm.autoencoder import Autoencoder
from gwm.pixels import rounded
from gwm.transfer import to_host
from gwm.wan.fused import fuse
from gwm.wan.vae import WanVAE
from serve.graphs import Capture, captured


class StreamDecoder:
    """Latents to pixel frames, chunk by chunk: `start` it with the reference image's latent, then call it.

    What it remembers is zeros at first and moves on in place. Behind a reference image all latent frames are decoded
    alike: what a decoder does differently with the first of all, it does in `start`, and one graph holds for every
    chunk. Without a graph the same body runs eagerly: the twin that defines the result.
    """

    def __init__(self, vae: Autoencoder, shape: tuple[int, ...], *, capture: Capture | None) -> None:
        """shape: of a chunk's latents, `1 f c h w`. capture: None for the eager twin."""
        self.vae, (_, num_frames, _, rows, columns) = vae, shape
        time, space = vae.config.temporal_stride, vae.config.spatial_stride
        self.latents = torch.zeros(shape, device=vae.mean.device, dtype=vae.mean.dtype)
        self.state = vae.initial_state(self.latents)
        pixels = (num_frames * time, rows * space, columns * space, 3)
        self.frames = torch.zeros(pixels, device=vae.mean.device, dtype=torch.uint8)
        if isinstance(vae, WanVAE) and self.device.type == "cuda":
            fuse(vae.model.decoder)
        self.replay = None
        if capture is not None:
            self.replay = captured("decoder", self._body, capture, self.device)
            for part in self.state:  # what was decoded meanwhile is not of any stream
                part.zero_()

    @property
    def device(self) -> torch.device:
        return self.latents.device

    @torch.no_grad()
    def start(self, reference: Float[Tensor, "1 1 c h w"]) -> None:
        """Forget the stream before; the next chunk follows this reference image."""
        self._remember(self.vae.state_after(reference))

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
        pixel_frames, state = self.vae.decode(self.latents, self.state)
        self.frames.copy_(rounded(pixel_frames[0]))
        self._remember(state)

    def _remember(self, state: tuple[Tensor, ...]) -> None:
        for static, new in zip(self.state, state, strict=True):
            static.copy_(new)
