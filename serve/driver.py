"""The two ways through a stream: an engine by itself, or a pipeline around one."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor


@runtime_checkable
class Driver(Protocol):
    """Starts a stream and makes the chunks that are ready: an engine, or a pipeline around one."""

    def start(self, portrait: UInt8[np.ndarray, "h w 3"], text: Float[Tensor, "1 s t"] | None = None) -> None: ...

    def chunks(self) -> Iterator[UInt8[np.ndarray, "f h w 3"]]: ...
