"""Denoising and decoding at the same time, one chunk apart: on two devices, two streams or two threads.

`serve.generate` uses it on GPUs, and the live server where a chunk takes too long otherwise (`overlap` in
configs/serve.yaml): on a CPU both take each other's cores, and what overlaps is seen a chunk later.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gwm.condition.inputs import Conditions
from serve.acts import Applied
from serve.engine import Engine

Frames = UInt8[np.ndarray, "f h w 3"]


def second_device(device: torch.device) -> torch.device:
    """Where to decode what `device` denoises: another GPU if this machine has one, else the same."""
    if device.type != "cuda" or torch.cuda.device_count() < 2:
        return device
    return torch.device("cuda", 0 if device.index else 1)


class Lane:
    """A worker thread that does one thing after another and, on a GPU, the stream in which it does them."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    def submit(self, work, *arguments) -> Future:
        return self.thread.submit(self._run, work, *arguments)

    def _run(self, work, *arguments):
        with torch.cuda.stream(self.stream):  # no stream: changes nothing
            return work(*arguments)


@dataclass(frozen=True)
class Lanes:
    """The two workers. Pipelines on the same devices may share them: each worker does one chunk after another."""

    denoise: Lane
    decode: Lane

    @classmethod
    def on(cls, denoise: torch.device, decode: torch.device) -> "Lanes":
        return cls(Lane("denoise", denoise), Lane("decode", decode))

    def close(self) -> None:
        """End both, once they have done what was asked of them."""
        self.denoise.thread.shutdown()
        self.decode.thread.shutdown()


class Pipeline:
    """Drives an engine: chunk n is denoised while chunk n - 1 is decoded; pixels are those of `Engine.step`.

    Latents go to the decoder before the pass that fixes them in the cache, so frames leave a pass earlier. At most one
    chunk waits between the workers. An error of either worker is raised by every later result until `start`; nothing
    waits for a worker that failed. All methods belong to one thread, and meanwhile the engine to the pipeline.
    """

    def __init__(self, engine: Engine, lanes: Lanes | None = None) -> None:
        """engine: on one device, its graphs must not share memory: `serve.graphs.capture_cuda` without a pool.
        lanes: of several pipelines, whose owner closes them; None: its own."""
        self.engine, self._shared = engine, lanes is not None
        self.lanes = Lanes.on(engine.device, engine.decoder.device) if lanes is None else lanes
        self.denoiser, self.decoder = self.lanes.denoise, self.lanes.decode
        self._fixed: Future | None = None  # the latest chunk's end in the cache
        self._decoded: list[Future] = []  # the latest two chunks' frames

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def start(self, portrait: UInt8[np.ndarray, "h w 3"], text: Float[Tensor, "1 s t"] | None = None) -> None:
        """As `Engine.start`, once all that was under way has ended; errors of the old stream are forgotten."""
        self.drain()
        self._fixed, self._decoded = None, []
        self.denoiser.submit(self.engine.start, portrait, text).result()

    def step(self) -> "Future[Frames]":
        """Begin the engine's next chunk and return at once; the result is its pixel frames.

        Raises:
            RuntimeError: the engine is not `ready`.
        """
        with torch.cuda.stream(self.denoiser.stream):  # which reads the conditions
            condition = self.engine.take()
        latents: Future = Future()
        two_before = self._decoded[-2] if len(self._decoded) == 2 else None
        self._fixed = self.denoiser.submit(self._denoise, condition, latents, self._fixed, two_before)
        self._fixed.add_done_callback(lambda fixed: _hand_over(fixed, latents))
        frames = self.decoder.submit(self._decode, latents, self._decoded[-1] if self._decoded else None)
        self._decoded = [*self._decoded[-1:], frames]
        return frames

    def chunks(self) -> Iterator[Frames]:
        """Frames of all chunks that are ready; while one is looked at, the next two are under way."""
        begun: deque[Future[Frames]] = deque()
        while self.engine.ready or begun:
            while self.engine.ready and len(begun) <= 2:
                begun.append(self.step())
            yield begun.popleft().result()

    def set_prompt(self, text: Float[Tensor, "1 s t"]) -> Applied:
        """As `Engine.set_prompt`, for the chunk that is begun next."""
        with torch.cuda.stream(self.denoiser.stream):
            return self.engine.set_prompt(text)

    def keyframe(self, picture: UInt8[np.ndarray, "h w 3"], *, at_s: float) -> Applied:
        """As `Engine.keyframe`."""
        with torch.cuda.stream(self.denoiser.stream):
            return self.engine.keyframe(picture, at_s=at_s)

    def rewind(self, chunks: int, *, keep_sound: bool = True) -> Applied:
        """As `Engine.rewind`, once all that was under way has ended; frames of begun chunks stay in their results."""
        self.drain()
        return self.denoiser.submit(partial(self.engine.rewind, keep_sound=keep_sound), chunks).result()

    def drain(self) -> None:
        """Wait until nothing is under way; errors stay in their results."""
        for work in (self._fixed, *self._decoded):
            if work is not None:
                work.exception()

    def close(self) -> None:
        """End workers of its own, once they have done what was asked of them."""
        if not self._shared:
            self.lanes.close()

    def _denoise(
        self, condition: Conditions, latents: Future, before: Future | None, two_before: Future | None
    ) -> None:
        for earlier in (before, two_before):  # also hands over what went wrong there
            if earlier is not None:
                earlier.result()
        self.engine.denoise(condition, lambda x: latents.set_result(self._sent(x)))

    def _sent(self, x: Float[Tensor, "1 f c h w"]) -> Float[Tensor, "1 f c h w"]:
        """The final latents on the decoder's device, in the decoder's stream."""
        denoise, decode, inside_graph = self.denoiser.stream, self.decoder.stream, self.engine.chunk.emitted
        if denoise is None or decode is None:
            return x.to(self.decoder.device)
        with torch.cuda.stream(decode):
            decode.wait_event(inside_graph or denoise.record_event())
            sent = x.to(self.decoder.device, non_blocking=True, copy=True)
        x.record_stream(decode)
        if inside_graph is not None:  # the next replay writes the same latents
            denoise.wait_event(decode.record_event())
        return sent

    def _decode(self, latents: Future, before: Future | None) -> Frames:
        if before is not None:
            before.result()
        return self.engine.decode(latents.result())


def _hand_over(fixed: Future, latents: Future) -> None:
    """An error before the latents were final is theirs too, so that the decoder does not wait for ever."""
    error = fixed.exception()
    if error is not None and not latents.done():
        latents.set_exception(error)
