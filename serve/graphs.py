"""A chunk as one CUDA graph: all denoising steps and the commit, captured once and kept for all streams.

The decoder has a graph of its own (`serve.decoder`), so that it can run beside the next chunk's.
"""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gwm.condition.inputs import Conditions
from gwm.rollout import Emit, Rollout, keep

log = logging.getLogger(__name__)

Replay = Callable[[], None]
Capture = Callable[[Callable[[], None]], Replay]
WARM_UPS = 2  # the first run compiles kernels and allocates, the second finds them; neither may be captured


def capture_cuda(body: Callable[[], None], *, pool: Any = None) -> Replay:
    """Run `body`, capture it, and return what replays it.

    pool: `torch.cuda.graph_pool_handle()` of graphs that never run at the same time as this one.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            body()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # thread_local: a decoder thread may allocate meanwhile. stream: by default all captures use the one of the first,
    # also on another device, where nothing would be captured.
    with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
        body()
    return graph.replay


def captured(name: str, body: Callable[[], None], capture: Capture, device: torch.device) -> Replay | None:
    """What replays `body` on its device; or None where it cannot be captured, which is said once."""
    here = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    try:
        with here:
            return capture(body)
    except RuntimeError as error:
        log.warning(
            "no CUDA graph of the %s, which runs eagerly and launches every kernel from the host: %s",
            *(name, error),
            exc_info=error,  # what went wrong is often behind the error of ending a capture
        )
        return None


def capture_on(device: torch.device) -> Capture | None:
    """How engines on this device capture what they do: not at all on a CPU.

    All graphs share one pool of memory, so no two of them may run at the same time.
    """
    if device.type != "cuda":
        return None
    return partial(capture_cuda, pool=torch.cuda.graph_pool_handle())


class GraphedChunk:
    """`Rollout.step`, replayed from a graph where there is one.

    The graph reads noise and conditions from storage of its own and the stream from the rollout's cache, whose
    counters are on the device: it holds from the first chunk on, and `Rollout.start` does not touch it. Without a
    graph (on a CPU, or where capture failed) the same body runs eagerly: the twin that defines the result.
    """

    def __init__(self, rollout: Rollout, example: Conditions, *, capture: Capture | None) -> None:
        """Capture at once, with conditions shaped like `example`; the rollout is empty afterwards.

        capture: None for the eager twin.
        """
        self.rollout = rollout
        self.noises = rollout.noises()
        self.drawn: tuple[tuple[int, int], list[Tensor]] | None = None  # noise of the next chunk, and whose it is
        self.condition = example.of_chunk().map(torch.clone)
        self.latents = self.noises[0].new_empty(rollout.picture_shape)
        self.emitted: torch.cuda.Event | None = None  # inside the graph: latents are final, the commit is not
        self.replay = None
        if capture is not None:
            self._set_prompt(example)
            self.replay = self._captured(capture)

    def step(self, condition: Conditions, emit: Emit = keep) -> Float[Tensor, "b f c h w"]:
        """The next chunk's latents. Those of a graph stay valid until the next chunk has been emitted.

        Raises:
            ValueError: the conditions have other shapes than the example.
        """
        if self.replay is None:
            return self.rollout.step(condition, emit)
        for static, new in zip(self.noises, self._noises(), strict=True):
            static.copy_(new)
        self._set(condition)
        self._set_prompt(condition)
        self.replay()
        self.rollout.frame += self.latents.shape[1]
        emit(self.latents)
        self._noises()  # the host draws them while the device computes
        return self.latents

    def _noises(self) -> list[Tensor]:
        """Of the next chunk, drawn at most once: `start` and a rewind may have changed which one that is."""
        place = self.rollout.seed, self.rollout.frame
        if self.drawn is None or self.drawn[0] != place:
            self.drawn = place, self.rollout.noises()
        return self.drawn[1]

    def _captured(self, capture: Capture) -> Replay | None:
        rollout = self.rollout
        if self.latents.is_cuda:
            self.emitted = torch.cuda.Event(external=True)
        replay = captured("denoiser", self._body, capture, self.latents.device)
        if replay is None:
            self.emitted = None
        rollout.cache.reset()
        return replay

    def _set_prompt(self, condition: Conditions) -> None:
        """The graph has no pass that computes keys and values of a text: a new text has one before it, eagerly."""
        self.rollout.set_prompt(condition)
        if self.rollout.contract.dit.of_rate("tokens") and not self.rollout.prompt.known:
            self.rollout.velocity(self.noises[0], 1.0, condition)

    def _body(self) -> None:
        self.rollout.generate(self.noises, self.condition, self._emit)

    def _emit(self, latents: Float[Tensor, "b f c h w"]) -> None:
        self.latents.copy_(latents)
        if self.emitted is not None:
            self.emitted.record()

    def _set(self, condition: Conditions) -> None:
        new = condition.of_chunk().flat()
        for name, static in self.condition.flat().items():
            shapes = tuple(static.shape), tuple(new[name].shape) if name in new else None
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"condition {name} has shape {shapes[1]}, the graph was captured with {shapes[0]}. Pass conditions "
                    "of one chunk, or make an engine for this shape."
                )
            static.copy_(new[name])
