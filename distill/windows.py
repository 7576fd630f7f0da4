"""The stretch of the student's own stream that is scored: the beginning of a stream, or windows of a long one.

A teacher knows clips of a few seconds. A long stream is therefore scored window by window, each as if it were a clip
of its own behind the same reference image.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from data.batch import LatentBatch
from distill.student_forcing import RolloutRequest, StreamPast, begin, go_on, student_rollout
from gwm.clip import CleanClip
from gwm.condition.inputs import Conditions, joined
from gwm.contract import Contract
from gwm.dit import Denoiser


@dataclass(frozen=True)
class Window(CleanClip):
    """Generated frames, and the conditions of teacher and critic."""

    sigma_exit: float


class Windows(ABC):
    """Makes windows; what it keeps between two steps is in its state. `shared` is equal on all devices."""

    @abstractmethod
    def __call__(
        self,
        model: Denoiser,
        contract: Contract,
        batch: LatentBatch,
        request: RolloutRequest,
        shared: torch.Generator,
    ) -> Window: ...

    def check(self, contract: Contract, num_frames: int) -> None:
        """Refuse, before training, clips that are too short for these windows.

        Raises:
            ValueError: these windows cannot be made of clips of `num_frames` latent frames.
        """
        return None

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        return None


class FromReference(Windows):
    """Every step a new stream, judged from its first frame on: student forcing as in Huang et al. 2025."""

    def __call__(
        self,
        model: Denoiser,
        contract: Contract,
        batch: LatentBatch,
        request: RolloutRequest,
        shared: torch.Generator,
    ) -> Window:
        clip = batch.clip
        rollout = student_rollout(model, contract, request, clip.reference, clip.condition, clip.x0.shape[1])
        return Window(rollout.x0, clip.reference, clip.condition, rollout.sigma_exit)


class UniformWindows(Windows):
    """A window anywhere in a stream of `stream_frames`; what lies before it is generated as when it is served.

    Frames behind the window are not made: nothing looks at them.
    Source: Cui et al. 2025 (Self-Forcing++), arXiv:2510.02283, extended rollout and windowed DMD.
    """

    def __init__(self, *, stream_frames: int) -> None:
        self.stream_frames = stream_frames

    def __call__(
        self,
        model: Denoiser,
        contract: Contract,
        batch: LatentBatch,
        request: RolloutRequest,
        shared: torch.Generator,
    ) -> Window:
        num_frames, size = batch.x0.shape[1], contract.pattern.chunk_frames
        places = (self.stream_frames - num_frames) // size + 1
        start = size * int(torch.randint(places, (), generator=shared, device=shared.device))
        condition = conversation(batch.condition, start + num_frames)
        as_served = replace(request, leave_at=len(contract.sigmas) - 1, gradient="none")
        past = begin(model, contract, as_served, batch.reference, condition)
        if start:
            past = go_on(model, contract, as_served, past, condition.frames(slice(0, start)), start)[1]
        condition = condition.frames(slice(start, start + num_frames))
        rollout, _ = go_on(model, contract, request, past, condition, num_frames)
        return Window(rollout.x0, batch.reference, condition, rollout.sigma_exit)

    def check(self, contract: Contract, num_frames: int) -> None:
        _check_stream(contract, self.stream_frames, num_frames)


@dataclass(frozen=True)
class _Stream:
    """A stream of `StreamingWindows` between two windows."""

    past: StreamPast
    frames: int
    tail: Float[Tensor, "b f c h w"]  # the last frames of the window before, and their conditions
    tail_condition: Conditions


class StreamingWindows(Windows):
    """Every step the next window of the streams of the step before, until `stream_frames`; then new ones.

    The last `overlap_frames` of a window lead the next one, without gradient, so that teacher and critic judge the
    joint. Each window has the voices and the text of its own batch: a stream has many speakers, and its past is
    computed again under each new text (`gwm.recache`).
    Source: Yang et al. 2025 (LongLive), arXiv:2509.22622, Sec. 3.2 (streaming long tuning).
    """

    def __init__(self, *, stream_frames: int, overlap_frames: int) -> None:
        self.stream_frames, self.overlap_frames = stream_frames, overlap_frames
        self._stream: _Stream | None = None

    def __call__(
        self,
        model: Denoiser,
        contract: Contract,
        batch: LatentBatch,
        request: RolloutRequest,
        shared: torch.Generator,
    ) -> Window:
        stream = self._stream
        if stream is None or stream.frames + batch.x0.shape[1] - self.overlap_frames > self.stream_frames:
            past = begin(model, contract, replace(request, gradient="none"), batch.reference, batch.condition)
            stream = _Stream(past, 0, batch.x0[:, :0], batch.condition.frames(slice(0, 0)))
        past = stream.past.set_prompt(model, contract, batch.conditions.get("tokens.text"))
        num_new = batch.x0.shape[1] - stream.tail.shape[1]
        new_condition = batch.condition.frames(slice(0, num_new))
        rollout, past = go_on(model, contract, request, past, new_condition, num_new)
        x0, condition = torch.cat([stream.tail, rollout.x0], dim=1), joined(stream.tail_condition, new_condition)
        last = slice(x0.shape[1] - self.overlap_frames, None)
        frames = stream.frames + num_new
        self._stream = _Stream(past, frames, x0[:, last].detach(), condition.frames(last))
        return Window(x0, past.reference, condition, rollout.sigma_exit)

    def check(self, contract: Contract, num_frames: int) -> None:
        size = contract.pattern.chunk_frames
        if not 0 <= self.overlap_frames < num_frames or self.overlap_frames % size:
            raise ValueError(
                f"overlap_frames={self.overlap_frames} must be a multiple of chunk_frames={size} in "
                f"[0, num_frames={num_frames}): every window needs new chunks."
            )
        _check_stream(contract, self.stream_frames, num_frames)

    def state_dict(self) -> dict[str, Any]:
        return {} if self._stream is None else {"stream": self._stream}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._stream = state["stream"] if state else None


def conversation(condition: Conditions, num_frames: int) -> Conditions:
    """Conditions for longer than a clip: when a sample's voices end, those of the next sample of the batch follow."""

    def longer(stream: Tensor) -> Tensor:
        turns = -(-num_frames // stream.shape[1])
        return torch.cat([stream.roll(-turn, dims=0) for turn in range(turns)], dim=1)[:, :num_frames]

    return condition.per_frame(longer)


def _check_stream(contract: Contract, stream_frames: int, num_frames: int) -> None:
    ending = [spec.name for spec in contract.dit.conditions if spec.rate == "channels" or spec.encoder == "image"]
    if ending:
        raise ValueError(
            f"the model must have no conditions {ending}: keyframes and what an image-to-video model is given end with "
            "their clip, and streams go on. Use stage/windows=reference."
        )
    if stream_frames < num_frames:
        raise ValueError(f"stream_frames={stream_frames} must be >= num_frames={num_frames}, a window's length.")


class WindowsOfPasses(Windows):
    """Windows of streams for each pass of an update: every pass continues the streams of its own samples."""

    def __init__(self, windows: Windows) -> None:
        self._new, self._parts = windows, dict[str, Windows]()

    def __call__(
        self,
        model: Denoiser,
        contract: Contract,
        batch: LatentBatch,
        request: RolloutRequest,
        shared: torch.Generator,
    ) -> Window:
        part = f"{batch.first_slot}+{len(batch)}"  # its place in the batch, and how many samples
        if part not in self._parts:
            self._parts[part] = copy.deepcopy(self._new)
        return self._parts[part](model, contract, batch, request, shared)

    def check(self, contract: Contract, num_frames: int) -> None:
        self._new.check(contract, num_frames)

    def state_dict(self) -> dict[str, Any]:
        states = {part: windows.state_dict() for part, windows in self._parts.items()}
        return {part: state for part, state in states.items() if state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._parts = {}
        for part, of_part in state.items():
            self._parts[part] = copy.deepcopy(self._new)
            self._parts[part].load_state_dict(of_part)
