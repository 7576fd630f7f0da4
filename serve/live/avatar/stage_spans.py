"""Stages of an engine as spans of a trace."""

from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

from serve.engine import Engine
from serve.live.traces import Traces

Given = ParamSpec("Given")
Made = TypeVar("Made")


class StageSpans:
    """Lets denoising and decoding a chunk be spans of that chunk, in the threads that do it. On a GPU a stage then ends
    when the device has done it."""

    def __init__(self, engine: Engine, traces: Traces) -> None:
        self.traces, self.chunks = traces, defaultdict[str, deque[Any]](deque)
        self.cuda = engine.device.type == "cuda"
        engine.denoise = self._spanned("denoise", engine.denoise)
        engine.decode = self._spanned("decode", engine.decode)

    def expect(self, carrier: dict[str, str], *, alone: bool) -> None:
        """The next chunk belongs to what the carrier holds; those of an engine are made in their order.

        alone: none is under way. One that was expected before could not be made.
        """
        for name in ("denoise", "decode"):
            if alone:
                self.chunks[name].clear()
            self.chunks[name].append(self.traces.carried(carrier))

    def _spanned(self, name: str, stage: Callable[Given, Made]) -> Callable[Given, Made]:
        def run(*given: Given.args, **more: Given.kwargs) -> Made:
            if not self.chunks[name]:  # such as a chunk that is made again with other numbers
                return stage(*given, **more)
            span = self.traces.begin(name, parent=self.chunks[name].popleft())
            try:
                made = stage(*given, **more)
                if self.cuda:
                    torch.cuda.current_stream().synchronize()
                return made
            finally:
                span.end()

        return run
