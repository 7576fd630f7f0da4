"""A stream of one case, ready to be timed."""

import copy
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from gwm.autoencoders.protocol import Autoencoder
from gwm.cache import RingCache
from gwm.condition.inputs import nothing_given
from gwm.dit import DiT
from gwm.media.framing import Framing
from gwm.resolution import Resolution
from gwm.rollout import Rollout
from kernels.dispatch import Policy, by_device, using
from serve.bench.caches import POLICIES
from serve.bench.case import DTYPES, Case, random_models
from serve.compiled import Compiled
from serve.decoder import StreamDecoder
from serve.graphs import GraphedChunk, capture_cuda


@dataclass(frozen=True, kw_only=True)
class Options:
    """Optimisations that are switched on. The defaults are the engine's."""

    cache: str | type[RingCache] = "ring"  # of POLICIES, or another package's
    kernels: Policy = by_device
    packed: bool = False  # queries, keys and values by one product
    onednn: bool = False  # products of the blocks and of attention by oneDNN, on CPUs
    dtype: torch.dtype | None = None  # of weights, cache and latents; None: the case's
    graph: bool = False
    compile: bool = False
    batch_size: int = 1  # streams that share every pass, which the engine's do not


class Workload:
    """Latents chunk by chunk under random conditions, and their decoder."""

    def __init__(self, case: Case, models: tuple[DiT, Autoencoder], options: Options) -> None:
        self.case, self.options, (dit, self.vae) = case, options, models
        weight, contract = dit.head.weight, case.contract()
        if options.packed or options.onednn or options.dtype:
            dit = copy.deepcopy(dit).to(options.dtype or weight.dtype)  # others time the same weights as they are
            weight = dit.head.weight
        if options.packed:
            dit.pack()
        if options.onednn:
            dit.order(contract.pattern.chunk_frames * case.patches, attention=True)
        cache = POLICIES[options.cache] if isinstance(options.cache, str) else options.cache
        batch_size = options.batch_size
        self.rollout = Rollout(dit, contract, batch_size=batch_size, cache=cache)
        if options.compile:
            self.rollout.model = Compiled(dit)  # type: ignore[assignment]  # called like the network
        like = {"device": weight.device, "dtype": weight.dtype}
        silent = nothing_given(contract.dit, contract.pattern.chunk_frames, like=weight)
        silent = silent.map(lambda x: x.expand(batch_size, -1, -1))
        tokens = {
            spec.name: torch.randn(batch_size, case.text_tokens, spec.width, **like)
            for spec in contract.dit.of_rate("tokens")
        }
        self.condition = silent.with_tokens(**tokens)
        self.reference = torch.randn(batch_size, 1, *self.rollout.chunk_shape[2:], **like)
        self.noise = self.rollout.noises()[0]
        with using(options.kernels):
            capture = capture_cuda if options.graph else None
            self.graphed = GraphedChunk(self.rollout, self.condition, capture=capture)
            framing = Framing(Resolution(case.height, case.width))
            decoder = partial(StreamDecoder, self.vae, self.rollout.chunk_shape, framing=framing, capture=capture)
            self.decoder = decoder() if case.decoder else None

    def start(self) -> None:
        with using(self.options.kernels):
            self.rollout.start(self.reference, self.condition, seed=0)
        if self.decoder is not None:
            self.decoder.start(self.vae.from_latent(self.reference))

    def denoise(self) -> Float[Tensor, "b f c h w"]:
        """All steps of the next chunk, and its commit."""
        with using(self.options.kernels):
            return self.graphed.step(self.condition)

    def one_pass(self) -> None:
        """One evaluation of the network, as in a step; the stream does not move."""
        with using(self.options.kernels):
            self.rollout.velocity(self.noise, 1.0, self.condition)

    def decode(self, latents: Float[Tensor, "1 f c h w"]) -> None:
        """The chunk's frames, on the host, where the case has a decoder."""
        if self.decoder is not None:
            self.decoder(latents)

    def chunk(self) -> None:
        """All that a chunk takes: denoising, commit and, where the case has one, the decoder."""
        self.decode(self.denoise())

    def jump(self, chunk: int) -> None:
        """Go on as if `chunk` chunks had been, with the keys that are in the ring: the stream's length is a counter."""
        pattern = self.rollout.contract.pattern
        self.rollout.frame = pattern.chunk_start(chunk)
        self.rollout.cache.frame.fill_(self.rollout.frame)

    def fill(self) -> None:
        """Start, and go on until the window is full."""
        self.start()
        for _ in range(self.rollout.contract.pattern.window_chunks):
            self.denoise()


def make(case: Case, device: torch.device, options: Options | None = None) -> Workload:
    """A workload with random weights of its own."""
    on_gpu = device.type == "cuda"
    models = random_models(case.contract(), device=device, dtype=DTYPES[case.dtype])
    return Workload(case, models, options or Options(packed=on_gpu, graph=on_gpu))
