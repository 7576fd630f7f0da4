"""Keyframes of a stream: which of its latent frames are known, and the pictures and times that say so."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from gwm.condition.inputs import Conditions
from gwm.condition.keyframes import with_keyframes
from gwm.contract import Contract
from gwm.media.face import FaceMesh
from gwm.media.framing import Framing, cut, framed_centre, framed_face
from gwm.media.portraits import find_portrait
from gwm.media.refilm import open_film
from gwm.media.video_frames import RgbReader, pixel_aspect
from serve.acts import Applied


@dataclass(frozen=True)
class TimedPicture:
    """A picture, and the media time at which it should be seen."""

    path: str
    at_s: float

    @classmethod
    def parse(cls, text: str) -> "TimedPicture":
        """From PICTURE@SECONDS.

        Raises:
            ValueError: a part is missing, or the time is none.
        """
        path, _, number = str(text).rpartition("@")
        try:
            at_s = float(number)
        except ValueError:
            at_s = math.nan
        if not path or not 0 <= at_s < math.inf:
            raise ValueError(
                f"keyframes has {text!r}, must have pictures with times of at least 0 seconds, such as "
                "keyframes=[a.png@0,b.png@2.5]."
            )
        return cls(path, at_s)


@dataclass(frozen=True)
class KnownFrames:
    """What is known of a clip from a media time on: one picture, or the pixel frames of several latent frames."""

    at_s: float
    pixel_frames: UInt8[np.ndarray, "*t h w 3"]
    exact: bool = False


@dataclass(frozen=True)
class VideoEnd:
    """The last frames of a video, cut alike."""

    portrait: UInt8[np.ndarray, "h2 w2 3"]  # the first of them, with what is kept around it
    frames: UInt8[np.ndarray, "t h w 3"]


def video_end(path: str, contract: Contract, framing: Framing, *, seconds: float, crop: bool) -> VideoEnd:
    """Whole latent frames of at most `seconds` at the end of a video, at the model's frame rate.

    crop: the square of the face in the first of them, which holds for all; False: the centre.

    Raises:
        ValueError: the file cannot be read, has no picture, is too short, or shows no face there.
    """
    with open_film(path) as film:
        to_rgb, kept = RgbReader(pixel_aspect(film.stream)), deque[tuple[float, av.VideoFrame]]()
        for moment_s, frame in film:
            kept.append((moment_s, frame))
            while moment_s - kept[1 if len(kept) > 1 else 0][0] > seconds:
                kept.popleft()
        if not kept:
            raise ValueError(f"{path} has 0 frames, must have at least one. Record or export it again.")
        end_s, stride = kept[-1][0] + float(1 / film.fps), contract.vae.temporal_stride
        count = int(min(seconds, end_s - kept[0][0]) * contract.fps + 1e-6) // stride * stride
        if not count:
            raise ValueError(
                f"video={path}: the last {min(seconds, end_s):.2f} s must be at least {stride / contract.fps:.2f} s, "
                "a latent frame. Raise known_seconds, or give a longer video."
            )
        moments = [moment_s for moment_s, _ in kept]
        middles = end_s - (np.arange(count, 0, -1) - 0.5) / contract.fps
        places = np.searchsorted(moments, middles, side="right") - 1
        pixels = {place: to_rgb(kept[place][1]) for place in sorted({*places.clip(0).tolist()})}
    chosen = [pixels[place] for place in places.clip(0).tolist()]
    picture, size = chosen[0], chosen[0].shape[:2]
    if crop:
        try:
            found = find_portrait(Image.fromarray(picture), FaceMesh())
        except ValueError as error:
            raise ValueError(f"{path}: {error} Or take its centre as it is: crop=false.") from error
        box = framed_face(size, found.middle, found.side, framing.frame)
    else:
        box = framed_centre(size, framing.frame)
    portrait = cut(picture, framing.around(box), framing.kept)
    return VideoEnd(portrait, np.stack([cut(frame, box, framing.frame) for frame in chosen]))


def latent_frame(contract: Contract, at_s: float) -> int:
    """The latent frame that is shown at a media time."""
    return int((at_s * contract.fps + 1e-6) // contract.vae.temporal_stride)


def check_keyframes(contract: Contract, *, exact: bool) -> None:
    """Refuse keyframes that this model cannot be given.

    Raises:
        ValueError: it has no such condition, or cannot go on from exact ones.
    """
    if contract.dit.keyframes is None:
        raise ValueError(
            "keyframes must be left out: the model has no condition with encoder=keyframes. Train one: "
            "python train.py stage=bidirectional +condition@model.conditions=keyframes"
        )
    if exact and contract.context != "clean":
        raise ValueError(
            f"exact=true must be false with context={contract.context}: the model remembers what it made itself, and "
            "would go on from that."
        )


def check_times(pictures: Sequence[TimedPicture], contract: Contract, *, num_frames: int, num_known: int) -> None:
    """Refuse times before anything is computed.

    num_known: pixel frames that a video begins the clip with.

    Raises:
        ValueError: a time is outside of the clip or in the video, or two lie in one latent frame.
    """
    end_s, frame_s = num_frames / contract.fps, contract.vae.temporal_stride / contract.fps
    owners: dict[int, TimedPicture] = {}
    for picture in pictures:
        name = f"keyframe {picture.path}@{picture.at_s:g}"
        if not picture.at_s <= end_s:
            raise ValueError(f"{name} must lie in the clip, which ends at {end_s:.2f} s. Raise seconds, or move it.")
        if picture.at_s * contract.fps < num_known:
            raise ValueError(f"{name} must be at {num_known / contract.fps:.2f} s or later, where video= has ended.")
        frame = latent_frame(contract, within(picture.at_s, contract, num_frames))
        if frame in owners:
            other = owners[frame]
            raise ValueError(
                f"{name} must be at another time than {other.path}@{other.at_s:g}: both lie in the {frame_s:.2f} s "
                f"from {frame * frame_s:.2f} s on, which are one latent frame. Move one of them, or leave it out."
            )
        owners[frame] = picture


def within(at_s: float, contract: Contract, num_frames: int) -> float:
    """A media time in the clip: its end counts as its last pixel frame."""
    return min(at_s, (num_frames - 1) / contract.fps)


class Keyframes:
    """The known latent frames of a stream, from when they are set until they are over."""

    def __init__(self, contract: Contract, *, like: Tensor) -> None:
        """like: a tensor whose device and precision conditions have."""
        self.contract, self.like, self.spec = contract, like, contract.dit.keyframes
        self.start()

    def start(self) -> None:
        """A new stream, of which nothing is known."""
        self.known = dict[int, Float[Tensor, "c h w"]]()
        self.exact = set[int]()

    def place(self, at_s: float, num_frames: int, *, taken: int, end: int | None) -> Applied:
        """The chunk that will show known frames from `at_s` on, and the media time of the first.

        num_frames: latent frames that become known. taken, end: chunks that were taken; the first after the stream.

        Raises:
            ValueError: a frame is over, after the stream's end, or known already.
        """
        size, frame_s = self.contract.pattern.chunk_frames, self.contract.vae.temporal_stride / self.contract.fps
        first = latent_frame(self.contract, at_s)
        if first < taken * size:
            raise ValueError(
                f"at_s={at_s:g} must be at least {taken * size * frame_s:g}: chunks before that have been generated."
            )
        if end is not None and first + num_frames > end * size:
            raise ValueError(f"at_s={at_s:g} must be before the stream's end at {end * size * frame_s:g} s.")
        if both := sorted(self.known.keys() & set(range(first, first + num_frames))):
            raise ValueError(
                f"at_s={at_s:g} must not be the time of another keyframe: the {frame_s:.2f} s from "
                f"{both[0] * frame_s:.2f} s on, one latent frame, are known already."
            )
        return Applied(first // size, first * frame_s)

    def put(self, latents: Float[Tensor, "f c h w"], *, at_s: float, exact: bool) -> None:
        """Latent frames are known from `at_s` on. exact: they are shown and remembered as they are."""
        frames = range(first := latent_frame(self.contract, at_s), first + len(latents))
        self.known |= dict(zip(frames, latents.to(self.like), strict=True))
        self.exact |= set(frames) if exact else set()

    def ahead(self, chunk: int) -> int:
        """How many known frames a chunk and those after it will show."""
        return sum(frame >= chunk * self.contract.pattern.chunk_frames for frame in self.known)

    def forget(self, chunk: int) -> None:
        """What lies before a chunk is never asked for again."""
        first = chunk * self.contract.pattern.chunk_frames
        for frame in [frame for frame in self.known if frame < first]:
            del self.known[frame]
            self.exact.discard(frame)

    def conditions(self, chunk: int) -> Conditions:
        """What is known at and after a chunk; as in training, nothing that lies farther ahead than a clip is long."""
        if self.spec is None:
            return Conditions()
        size, horizon = self.contract.pattern.chunk_frames, self.contract.horizon_frames
        first = chunk * size
        ahead = [frame for frame in self.known if first <= frame < first + max(size, horizon)]
        length = max([size, *(frame - first + 1 for frame in ahead)])
        x0 = self.like.new_zeros(1, length, self.contract.dit.in_channels, *self.contract.latent_grid)
        known = torch.zeros(1, length, dtype=torch.bool, device=x0.device)
        for frame in ahead:
            x0[0, frame - first], known[0, frame - first] = self.known[frame], True
        return with_keyframes(Conditions(), self.contract.dit, x0, known).frames(slice(0, size))

    def override(
        self, chunk: int, codes: dict[str, Float[Tensor, "1 f c h w"]]
    ) -> dict[str, Float[Tensor, "1 f c h w"]]:
        """Latents of a chunk that are decided: those of exact keyframes, else what callers set of codes."""
        if self.spec is None or self.contract.context != "clean":
            return codes
        size = self.contract.pattern.chunk_frames
        shape = (1, size, self.contract.dit.in_channels, *self.contract.latent_grid)
        share, value = (codes[name].clone() if codes else self.like.new_zeros(shape) for name in ("share", "value"))
        for frame in self.exact.intersection(range(chunk * size, (chunk + 1) * size)):
            share[0, frame - chunk * size], value[0, frame - chunk * size] = 1.0, self.known[frame]
        return {"share": share, "value": value}
