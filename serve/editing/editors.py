"""Windows of pictures through a model: a published one that sees the whole window, or one of ours as a stream behind
a reference image. Both draw parts anew (`inpaint`), or move what is drawn from one prompt to another (`flow_edit`).
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from gwm.contract import Contract
from gwm.editing import drawn_cells, flow_edit, inpaint
from gwm.media.pixels import to_float, to_tensor, to_uint8
from gwm.no_text import padded_text
from gwm.resolution import Resolution
from gwm.sampler import Velocity, frame_noise
from gwm.weights import is_written_here
from serve.acts import Numbers, check_numbers
from serve.artifact import Artifact, load_artifact
from serve.editing.request import EditRequest
from serve.engine import Engine
from serve.many_steps import guided_by, led_away, load_stage, with_length
from serve.memory import check_clip_memory
from serve.prompts import Texts
from serve.published_clip import (
    Clip,
    Release,
    clip_of,
    clip_velocity,
    contract_of,
    load_published,
    release_of,
    sample_clip,
    wan_vae,
    with_control,
)

Pictures = UInt8[np.ndarray, "t h w 3"]
Drawn = Bool[np.ndarray, "t h w"]


@runtime_checkable
class Editor(Protocol):
    """A model that edits windows of pictures in its own size."""

    seen: Resolution
    fps: int
    artifact: Artifact

    def length(self, num_frames: int) -> int:
        """Pictures of a window, for a film of so many."""
        ...

    def __call__(self, pictures: Pictures, drawn: Drawn, *, first: int) -> Pictures:
        """The window that begins with picture `first` of the film, edited where it is drawn."""
        ...


class ClipEditor:
    """A published text-to-video model of Wan: no picture of a window is given, each may be drawn anew."""

    def __init__(self, request: EditRequest, canvas: tuple[int, int], *, device: torch.device) -> None:
        """canvas: height and width of the film, whose aspect windows have.

        Raises:
            FileNotFoundError: a part of the model is missing.
            ValueError: it takes its image beside the noised channels, or settings that it does not have.
        """
        for name in ("image", "vae", "act"):
            if (value := vars(request)[name]) is not None:
                raise ValueError(f"{name}={value} must be left out: {request.artifact} is a published model.")
        release = release_of(request.artifact)
        if release.image in ("required", "first_and_last"):
            raise ValueError(
                f"artifact={request.artifact} must be a text-to-video model: an image-to-video model expects its image "
                "as the first picture of every clip. Take Wan 2.1 T2V or VACE, or Wan 2.2 TI2V."
            )
        self.request, self.fps = request, release.fps
        self.seen = self._resolution(release, canvas)
        frames = release.num_frames if request.window is None else request.window
        contract = contract_of(request.clip(self.seen, seconds=frames / release.fps), release)
        if contract.dit.control_layers and (request.source is not None or request.rounds > 1):
            raise ValueError(f"source and rounds must be left out: {request.artifact} is VACE, which sees the mask.")
        self.frames = 1 + contract.vae.temporal_stride * contract.horizon_frames
        texts = Texts(request.text_encoder, request.artifact)
        tokens = [texts.tokens(text) for text in (request.prompt or "", request.source or "")]
        self.artifact = load_published(request.clip(self.seen, seconds=None), contract, device=device)
        check_clip_memory(self.artifact, "window=", lower="window")
        before = guided_by(self.artifact, request.source_sampling)
        if self.artifact.guided is not None or request.negative_prompt is not None:
            self.artifact = led_away(self.artifact, texts, request.negative_prompt or "")
        if before.guided is not None:
            before = led_away(before, texts, "")
        clips: list[Clip] = [clip_of(model, text, (), None) for model, text in zip((self.artifact, before), tokens)]
        self.clip = clips[0]
        self.target, self.source = (clip_velocity(*pair) for pair in zip((self.artifact, before), clips))

    def _resolution(self, release: Release, canvas: tuple[int, int]) -> Resolution:
        """As large as the published frame, in the film's aspect, unless another is asked for."""
        if self.request.resolution is not None:
            return Resolution.parse(self.request.resolution)
        height, width = canvas if self.request.view is None else self.request.view[:1:-1]
        area, multiple = release.resolution.height * release.resolution.width, 32  # of every Wan
        scale = math.sqrt(min(1.0, area / (height * width)))
        return Resolution(*(max(multiple, round(scale * side / multiple) * multiple) for side in (height, width)))

    def length(self, num_frames: int) -> int:
        stride = self.artifact.contract.vae.temporal_stride
        return min(self.frames, 1 + stride * -(-(num_frames - 1) // stride))

    @torch.no_grad()
    def __call__(self, pictures: Pictures, drawn: Drawn, *, first: int) -> Pictures:
        vae, contract = wan_vae(self.artifact), self.artifact.contract
        if contract.dit.control_layers:
            clip = with_control(self.clip, self.artifact, pictures, drawn)
            x = sample_clip(self.artifact, clip, seed=self.request.seed, first=first)
            return to_uint8(vae.decode_pixels(x.to(vae.mean))[0][0])
        x0 = vae.encode_pixels(to_float(pictures)[None].to(vae.mean)).float()
        cells = cells_of(drawn, contract, single=True).to(x0.device)
        if self.request.source is not None:
            x = edited(self.source, self.target, x0, cells, contract, self.request, first=first)
        else:
            noise = frame_noise(x0.shape, seed=self.request.seed, frame=first, step=0).to(x0)
            steps: dict[str, Any] = {"sigmas": contract.sigmas, "solver": contract.solver}
            x = inpaint(self.target, [noise], x0=x0, drawn=cells, rounds=self.request.rounds, **steps)
        return to_uint8(vae.decode_pixels(x.to(vae.mean))[0][0])


class StreamEditor:
    """A model of ours: each window is a stream behind the reference image, chunk by chunk or as one clip."""

    def __init__(self, request: EditRequest, *, device: torch.device) -> None:
        """
        Raises:
            FileNotFoundError: a part of the model is missing.
            ValueError: its latents are no pictures, or settings that it does not have.
        """
        if request.resolution is not None:
            raise ValueError(
                f"resolution={request.resolution} must be left out: {request.artifact} has that of its training."
            )
        self.request = request
        self.artifact = self._loaded(device)
        contract = self.artifact.contract
        self.fps, self.seen = contract.fps, contract.resolution
        if contract.vae.working_side is not None:
            raise ValueError(
                f"artifact={request.artifact} must have latents of pictures: its own are codes of a face, which "
                "have no place in the picture. For a mouth with another voice: python -m serve.dub"
            )
        has_text = contract.dit.width("text") > 0
        for name in ("prompt", "source"):
            if not has_text and vars(request)[name] is not None:
                raise ValueError(
                    f"{name}={vars(request)[name]!r} must be left out: the model of {request.artifact} has no text "
                    "condition. Leave it out, or take a model that was trained with one."
                )
        if contract.has_own_steps and request.source is not None:
            raise ValueError(f"source=... needs a model of many steps: {request.artifact} is distilled to few.")
        texts = Texts(request.text_encoder, request.artifact)
        self.before = guided_by(dataclasses.replace(self.artifact, guided=None), request.source_sampling)
        if request.negative_prompt is not None:
            self.artifact = led_away(self.artifact, texts, request.negative_prompt)
        self.tokens = [
            None if text is None else padded_text(texts.tokens(text), 512)[None]
            for text in (request.prompt, request.source)
        ]
        self.reference: UInt8[np.ndarray, "h w 3"] | None = None  # None: the first picture of each window
        self.acts = list[tuple[int, Numbers]]()  # the picture of the film from which on numbers hold

    def _loaded(self, device: torch.device) -> Artifact:
        request = self.request
        if is_written_here(Path(request.artifact)):
            return load_stage(request.artifact, request.vae, request.sampling, device=device)
        request.sampling.check_unused(request.artifact)
        return load_artifact(request.artifact, device=device)

    def length(self, num_frames: int) -> int:
        chunk, stride = self.artifact.contract.pattern.chunk_frames, self.artifact.contract.vae.temporal_stride
        asked = self.artifact.contract.horizon_frames * stride if self.request.window is None else self.request.window
        each = stride * (chunk if chunk != self.artifact.contract.horizon_frames else 1)
        return min(max(each, asked // each * each), -(-num_frames // each) * each)

    @torch.no_grad()
    def __call__(self, pictures: Pictures, drawn: Drawn, *, first: int) -> Pictures:
        artifact = with_length(self.artifact, len(pictures))
        target = Engine(artifact, seed=self.request.seed + first)
        portrait = pictures[0] if self.reference is None else self.reference
        target.start(portrait, self.tokens[0])
        self._act(target, first)
        target.finish(len(pictures))
        reference = artifact.vae.encode_reference(to_tensor(portrait)[None])
        x0 = artifact.vae.encode(to_tensor(pictures)[None], reference).to(target.rollout.cache.k)
        cells = cells_of(drawn, artifact.contract, single=False).to(x0.device)
        source = None
        if self.request.source is not None:
            source = Engine(with_length(self.before, len(pictures)), seed=self.request.seed)
            source.start(portrait, self.tokens[1])
            self._act(source, first)
            source.finish(len(pictures))
        made, chunk = [], artifact.contract.pattern.chunk_frames
        for latents, where in zip(x0.split(chunk, dim=1), cells.split(chunk, dim=1), strict=True):
            made.append(self._chunk(target, source, latents, where))
        return np.concatenate(made)

    def follow(self, moments_s: Float[np.ndarray, " n"]) -> None:
        """Take numbers at their times in a film with pictures at these moments.

        Raises:
            ValueError: the film is over then, or as `serve.acts.check_numbers`.
        """
        for one in self.request.timed_numbers():
            check_numbers(one.numbers, self.artifact.contract)
            picture = int(np.searchsorted(moments_s, one.at_s - 1e-6))
            if picture == len(moments_s):
                raise ValueError(
                    f"act at={one.at_s:g} must not be after {moments_s[-1]:.2f} s, where {self.request.video} shows "
                    "its last picture."
                )
            self.acts.append((picture, one.numbers))

    def _act(self, engine: Engine, first: int) -> None:
        """Set the numbers of a window that begins with picture `first`, each from a chunk's first picture on. Of
        several values each is of its own picture, wherever windows and chunks begin."""
        frames = engine.contract.chunk_pixel_frames
        for picture, given in self.acts:
            begin = max(0, -(-(picture - first) // frames) * frames)
            gone = first + begin - picture
            numbers = {
                name: value[min(gone, len(value) - 1) :] if isinstance(value, Sequence) else value
                for name, value in given.items()
            }
            engine.act(numbers, at_s=begin / self.fps)

    def _chunk(self, target: Engine, source: Engine | None, x0: Tensor, cells: Tensor) -> Pictures:
        """The next chunk. With a source, two streams: one remembers the film, the other what it has become."""
        if source is None:
            target.rollout.sampler = partial(inpaint, x0=x0, drawn=cells, rounds=self.request.rounds)
            return target.step()
        made = []

        def keep(before: Velocity, *_: object, **__: object) -> Tensor:
            def move(after: Velocity, *_: object, **__: object) -> Tensor:
                first = target.rollout.frame
                return edited(before, after, x0, cells, target.contract, self.request, first=first)

            target.rollout.sampler = move
            made.append(target.step())
            return x0

        source.rollout.sampler = keep
        source.denoise(source.take())
        return made[0]


def edited(
    source: Velocity,
    target: Velocity,
    x0: Tensor,
    cells: Tensor,
    contract: Contract,
    request: EditRequest,
    *,
    first: int,
) -> Tensor:
    """`flow_edit` as the request has it."""
    return flow_edit(
        source,
        target,
        x0,
        sigmas=contract.sigmas,
        drawn=cells,
        strength=request.strength,
        draws=request.draws,
        seed=request.seed * 1_000_003 + first,
    )


def cells_of(drawn: Drawn, contract: Contract, *, single: bool) -> Bool[Tensor, "1 f 1 i j"]:
    vae = contract.vae
    return drawn_cells(drawn, space=vae.spatial_stride, time=vae.temporal_stride, single=single)
