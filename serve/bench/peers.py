"""Other people's code on the same shapes, where it is installed: FlashDreams' cache, and diffusers' model."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from gwm.optional import optional_module
from serve.bench.caches import FlatCache, Window
from serve.bench.case import DTYPES, Case

FLASHDREAMS = "pip install --no-deps flashdreams==0.1.0 nvidia-ml-py"
DIFFUSERS = "pip install diffusers"


class FlashDreamsCache(FlatCache):
    """NVIDIA's `BlockKVCache`, one for each layer; for chunks of one latent frame."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.pattern.chunk_frames != 1:
            raise ValueError(f"chunk_frames={self.pattern.chunk_frames} must be 1: the reference image is a chunk too.")
        make = optional_module("flashdreams.core.attention.kvcache", FLASHDREAMS).BlockKVCache
        shape, sinks = tuple(self.k.shape[1:]), self.sink_k.shape[2]
        tokens = {"chunk_size": self.patches, "sink_size": sinks, "window_size": shape[1] - sinks}
        place = {"seq_dim": 1, "device": self.k.device, "dtype": self.k.dtype}
        self.layers = [make(k_shape=shape, v_shape=shape, **tokens, **place) for _ in range(len(self.k))]

    def reset(self) -> None:
        super().reset()
        for layer in self.layers:
            layer.reset()

    def visible(self, layer: int, k: Tensor, v: Tensor) -> Window:  # type: ignore[override]
        cache = self.layers[layer]
        cache.before_update(self.begin)
        cache.update(k, v)
        window = cache.cached_k(), cache.cached_v(), None
        cache.after_update(self.begin)
        return window


def absent(case: Case) -> dict[str, str]:
    """Why a package is not compared with."""
    reasons = {} if find_spec("flashdreams") else {"flashdreams": f"not installed: {FLASHDREAMS}"}
    if "flashdreams" not in reasons and case.chunk_frames != 1:
        reasons["flashdreams"] = "its blocks have one size, and the reference image is a block of one frame"
    if not find_spec("diffusers"):
        reasons["diffusers"] = f"not installed: {DIFFUSERS}"
    elif not case.contract().dit.width("text"):
        reasons["diffusers"] = "its Wan model attends to a text, which this shape has not"
    return reasons


def installed_caches(case: Case) -> dict[str, type[FlatCache]]:
    """Caches of other packages that can be compared with on this machine."""
    return {} if "flashdreams" in absent(case) else {"flashdreams": FlashDreamsCache}


@torch.no_grad()
def diffusers_runs(case: Case, device: torch.device) -> dict[str, Callable[[], object]]:
    """What a chunk costs with diffusers' model, which has no cache.

    whole window: all visible latent frames in every step. chunk alone: the new frames in every step and once more for
    a commit, as if the past cost nothing: what is left is the code of the blocks.
    """
    shape = case.contract().dit
    with torch.device(device):
        model = optional_module("diffusers", DIFFUSERS).WanTransformer3DModel(
            num_attention_heads=shape.num_heads,
            attention_head_dim=shape.head_dim,
            in_channels=shape.in_channels,
            out_channels=shape.in_channels,
            text_dim=shape.width("text"),
            ffn_dim=shape.ffn_dim,
            num_layers=shape.num_layers,
        )
    dtype = DTYPES[case.dtype]
    model = model.to(dtype).eval().requires_grad_(False)
    text = torch.randn(1, case.text_tokens, shape.width("text"), device=device, dtype=dtype)
    level = torch.full((1,), 600, device=device)

    def passes(num_frames: int, count: int) -> Callable[[], object]:
        x = torch.randn(1, shape.in_channels, num_frames, *case.grid, device=device, dtype=dtype)
        return lambda: [model(x, level, text, return_dict=False) for _ in range(count)]

    return {
        "diffusers, whole window": passes(case.window_frames, case.steps),
        "diffusers, chunk alone": passes(case.chunk_frames, case.steps + 1),
    }
