"""The live server with stages that take their time: what another machine's times would do, on this one.

`python -m serve.bench.live stages=[151,119]` starts it: python -m serve.bench.stages '+stages=[151,119]' port=8090

Everything is that of `python -m serve`, but denoising and decoding each last as long as `stages` says, asleep for what
is left of it.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from configs.command.main import command
from gwm.condition.inputs import Conditions
from gwm.rollout import Emit, keep
from serve.__main__ import serving
from serve.engine import Engine
from serve.live.avatar.engines import serve_engines


@contextlib.contextmanager
def lasting(seconds: float) -> Iterator[None]:
    """What is inside takes at least so long."""
    end_s = time.perf_counter() + seconds
    yield
    time.sleep(max(0.0, end_s - time.perf_counter()))


class StagedEngine(Engine):
    """An engine whose stages take at least so many milliseconds a chunk. Latents are final when denoising ends."""

    def __init__(self, *arguments: Any, denoise_ms: float, decode_ms: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.denoise_s, self.decode_s = denoise_ms / 1000, decode_ms / 1000

    def denoise(self, condition: Conditions, emit: Emit = keep) -> Float[Tensor, "1 f c h w"]:
        with lasting(self.denoise_s):
            latents = super().denoise(condition)
        emit(latents)
        return latents

    def decode(self, latents: Float[Tensor, "1 f c _ _"]) -> UInt8[np.ndarray, "t h w 3"]:
        with lasting(self.decode_s):
            return super().decode(latents)


def check_stages(stages: Sequence[Any]) -> None:
    """
    Raises:
        ValueError: they are not two times.
    """
    if len(stages) != 2 or not all(isinstance(ms, int | float) and ms >= 0 for ms in stages):
        raise ValueError(f"stages={list(stages)} must be two times in ms: of denoising a chunk and of decoding it.")


@command("serve", verbatim=("artifact", "characters", "text_encoder", "store", "public_url"))
def main(cfg: DictConfig) -> None:
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    stages = values.pop("stages", ())
    check_stages(stages)
    make = partial(StagedEngine, denoise_ms=stages[0], decode_ms=stages[1])
    asyncio.run(serving(values, serve=partial(serve_engines, make=make)))


if __name__ == "__main__":
    main()
