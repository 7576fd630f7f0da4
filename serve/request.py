"""A clip to be generated: the settings of configs/generate.yaml, checked before anything is loaded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8

from gwm.autoencoders.motion.paste import Square
from gwm.contract import Contract
from gwm.files.outputs import check_output
from gwm.media.face import FaceMesh
from gwm.media.framing import Framing
from gwm.media.images import read_image
from gwm.media.portraits import crop_to_centre, crop_to_face
from gwm.media.video import container_of, read_audio
from gwm.resolution import Resolution
from serve.acts import TimedNumbers
from serve.face_crop import framed
from serve.keyframes import (
    KnownFrames,
    TimedPicture,
    VideoEnd,
    check_keyframes,
    check_times,
    video_end,
    within,
)
from serve.many_steps import Sampling
from serve.prompts import TimedPrompt

ImageUse = Literal["refused", "optional", "required", "first_and_last"]


@dataclass(frozen=True)
class Voices:
    """Both sides of a conversation, equally long."""

    agent: Float[np.ndarray, " t"]
    user: Float[np.ndarray, " t"]


@dataclass(frozen=True, kw_only=True)
class ClipRequest:
    """One clip of one model; None: not given."""

    artifact: str
    out: str
    image: str | None = None
    audio: str | None = None
    user: str | None = None
    seconds: float | int | None = None
    prompt: str | None = None
    prompts: Sequence[Mapping[str, Any]] = ()  # each with `at` in seconds, and `text`
    act: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None  # numbers by name; several with `at` in seconds
    keyframes: Sequence[str] = ()  # each PICTURE@SECONDS
    video: str | None = None  # whose end the clip begins with
    known_seconds: float | int = 1  # of it
    exact: bool = False  # latents of keyframes are copied
    negative_prompt: str | None = None
    text_encoder: str | None = None
    steps: int | None = None
    shift: float | int | None = None
    guidance: float | int | None = None
    sampler: Any = None
    vae: str | None = None
    resolution: str | int | None = None
    tile: int | None = None  # px along each side of the parts in which a published model's frames are decoded
    seed: int = 0
    dtype: str = "auto"  # in which models are computed
    size: int | None = None  # px along each side of the portrait
    whole: bool = False  # the picture around the portrait is shown too
    crop: bool | None = None
    parallel: str = "ulysses"

    def __post_init__(self) -> None:
        if self.seconds is not None and not (_is_number(self.seconds) and 0 < self.seconds < math.inf):
            raise ValueError(f"seconds={self.seconds} must be a finite number above 0.")
        if self.prompt is not None and self.prompts:
            raise ValueError(
                f"prompt={self.prompt!r} and prompts=... exclude each other: write it as the first of prompts, with "
                "at: 0."
            )
        for name, allowed in (("whole", (True, False)), ("exact", (True, False)), ("crop", (True, False, None))):
            if vars(self)[name] not in allowed:
                words = "true or false" if None not in allowed else "true, false or null"
                raise ValueError(f"{name}={vars(self)[name]} must be {words}, such as {name}=true.")
        if self.whole and self.crop is False:
            raise ValueError("whole=true must be false with crop=false: the square that moves is the face's.")
        if self.resolution is not None:
            Resolution.parse(self.resolution)
        if self.tile is not None and not (isinstance(self.tile, int) and self.tile > 0):
            raise ValueError(f"tile={self.tile} must be a whole number of px, or null: frames are decoded whole.")
        if not (_is_number(self.known_seconds) and 0 < self.known_seconds < math.inf):
            raise ValueError(f"known_seconds={self.known_seconds} must be a finite number above 0.")
        if self.whole and self.video is not None:
            raise ValueError(f"video={self.video} must be left out with whole=true: frames around the face differ.")
        self.timed_prompts()
        self.timed_numbers()
        self.timed_pictures()
        self.sampling.check()

    @property
    def sampling(self) -> Sampling:
        return Sampling(steps=self.steps, shift=self.shift, guidance=self.guidance, sampler=self.sampler)

    def timed_prompts(self) -> list[TimedPrompt]:
        """All prompts in the order of their times.

        Raises:
            ValueError: an entry has other keys than at and text, or values that cannot be.
        """
        if self.prompt is not None:
            return [TimedPrompt(0.0, self.prompt)]
        found = []
        for entry in self.prompts:
            if not isinstance(entry, Mapping) or set(entry) != {"at", "text"} or not _is_number(entry["at"]):
                raise ValueError(
                    f"prompts has {entry}, must have entries of a time in seconds and a text, such as "
                    'prompts=\'[{at: 0, text: "a calm sea"}, {at: 5, text: "a storm"}]\'.'
                )
            found.append(TimedPrompt(float(entry["at"]), str(entry["text"])))
        return sorted(found, key=lambda prompt: prompt.at_s)

    def timed_numbers(self) -> list[TimedNumbers]:
        """All that `act` sets, in the order of its times.

        Raises:
            ValueError: an entry is no mapping, or its `at` is no time.
        """
        return timed_numbers(self.act)

    def timed_pictures(self) -> list[TimedPicture]:
        """All keyframes in the order of their times.

        Raises:
            ValueError: an entry is no PICTURE@SECONDS.
        """
        return sorted((TimedPicture.parse(text) for text in self.keyframes), key=lambda picture: picture.at_s)

    def check_out(self) -> None:
        """Refuse an output before anything is computed.

        Raises:
            ValueError: no film can be written to `out`.
        """
        container_of(self.out)
        check_output(Path(self.out))

    def check_distilled(self) -> None:
        """Refuse what a distilled student has not.

        Raises:
            ValueError: guidance or another number of steps is given.
        """
        self.sampling.check_unused(self.artifact)
        if self.negative_prompt is not None:
            raise ValueError(
                f"negative_prompt={self.negative_prompt!r} must be left out: {self.artifact} is distilled, and its few "
                "steps have no guidance that could lead away from a text. Leave it out."
            )

    def check_published(self, image: ImageUse) -> None:
        """Refuse what a published model does not take, and the lack of what it needs.

        Raises:
            ValueError: there is no prompt, no image for a model that needs one, or something that it does not take.
        """
        for name in ("keyframes", "exact"):
            if vars(self)[name] and not (name == "keyframes" and image == "first_and_last"):
                raise ValueError(
                    f"{name}={vars(self)[name]} must be left out: {self.artifact} was not trained with it."
                )
        unused = ("audio", "user", "vae", "size", "act", "video", *(["image"] if image == "refused" else []))
        for name in unused:
            if (value := vars(self)[name]) is not None:
                raise ValueError(
                    f"{name}={value} must be left out: the published model {self.artifact} makes clips of a text"
                    f"{'' if image == 'refused' else ' and an image'} alone. Leave it out, or adapt the model with "
                    "stage=bidirectional and name its weights."
                )
        if self.whole:
            raise ValueError(f"whole=true must be false: {self.artifact} draws all of its picture anew.")
        if image == "required" and self.image is None:
            raise ValueError(
                f"image=... must be given: {self.artifact} is an image-to-video model. Name a picture, or take a "
                "text-to-video model."
            )
        if self.prompt is None or self.prompts:
            raise ValueError("prompt=... must be given, and no prompts=: a whole clip has one text.")

    def first_and_last(self, num_frames: int, fps: int) -> list[str]:
        """The pictures with which a clip of so many pixel frames begins and ends, of a model that takes both: `image`
        or a keyframe at 0, and a keyframe in the last pixel frame or at the end.

        Raises:
            ValueError: one is missing, or there are others.
        """
        end_s, pictures = num_frames / fps, self.timed_pictures()
        first = [one.path for one in pictures if one.at_s < 1 / fps] + ([] if self.image is None else [self.image])
        last = [one.path for one in pictures if end_s - 1 / fps - 1e-6 <= one.at_s <= end_s + 1e-6]
        if len(first) != 1 or len(last) != 1 or len(pictures) + (self.image is not None) != 2:
            raise ValueError(
                f"keyframes={list(self.keyframes)} must be the first and the last picture of the clip, such as "
                f"keyframes=[A.png@0,B.png@{end_s:g}]: {self.artifact} was trained with both, and with no other."
            )
        return first + last

    def check_own_size(self) -> None:
        """Refuse a resolution for a model that has its own, and tiles for what only published models decode.

        Raises:
            ValueError: one of them is given.
        """
        if self.tile is not None:
            raise ValueError(f"tile={self.tile} must be left out: {self.artifact} is no published model of Wan.")
        if self.resolution is not None:
            raise ValueError(
                f"resolution={self.resolution} must be left out: {self.artifact} has the resolution of its training. "
                "Leave it out; size= is for artifacts with a motion autoencoder."
            )

    def cuts_face(self, contract: Contract) -> bool:
        """Whether pictures are cut around the face: as wished, and else for models that speak."""
        return contract.takes_sound if self.crop is None else self.crop

    def picture(
        self, contract: Contract, framing: Framing, end: VideoEnd | None = None
    ) -> tuple[UInt8[np.ndarray, "h w 3"], Square | None]:
        """A portrait as it is kept; or, with `whole`, what is shown and the square in it that is kept and moves.
        Without an image it is that of the video's end, or of the first keyframe.

        Raises:
            ValueError: there is no image, or as `read_portrait` and `framed`.
        """
        if self.image is None and end is not None:
            return end.portrait, None
        pictures = self.timed_pictures()
        image = self.image or (pictures[0].path if pictures else None)
        if image is None:
            raise ValueError(
                f"image=... must be given: every stream of {self.artifact} follows a reference image. Name a picture; "
                "crop=false takes its centre, for pictures without a face."
            )
        if self.whole:
            return framed(read_image(image), framing, whole=True)
        return read_portrait(image, framing, crop=self.cuts_face(contract)), None

    def video_end(self, contract: Contract, framing: Framing) -> VideoEnd | None:
        """What the clip begins with.

        Raises:
            ValueError: the model takes no keyframes, or as `serve.keyframes.video_end`.
        """
        if self.video is None:
            return None
        check_keyframes(contract, exact=True)
        crop = self.cuts_face(contract)
        return video_end(self.video, contract, framing, seconds=float(self.known_seconds), crop=crop)

    def check_known(self, contract: Contract) -> None:
        """Refuse keyframes, and the end of a video, before a model is loaded.

        Raises:
            ValueError: the model takes none, a time is outside of the clip, or two lie in one latent frame.
        """
        check_keyframes(contract, exact=self.exact or self.video is not None)
        if self.keyframes:
            num_frames = self.num_frames(contract, self.voices(contract))
            check_times(self.timed_pictures(), contract, num_frames=num_frames, num_known=0)

    def known(
        self, contract: Contract, framing: Framing, *, num_frames: int, end: VideoEnd | None
    ) -> list[KnownFrames]:
        """Frames of a video, and pictures of all keyframes.

        Raises:
            ValueError: the model takes no keyframes, a time is not in the clip or known already, or a picture cannot be
                read or shows no face; nothing has been computed then.
        """
        pictures, found = self.timed_pictures(), [] if end is None else [KnownFrames(0.0, end.frames, exact=True)]
        if pictures:
            check_keyframes(contract, exact=self.exact)
        num_known = 0 if end is None else len(end.frames)
        if num_known >= num_frames:
            raise ValueError(
                f"video={self.video} fills the clip of {num_frames / contract.fps:.2f} s with the "
                f"{num_known / contract.fps:.2f} s that are known of it, must leave some. Raise seconds, or lower "
                "known_seconds."
            )
        check_times(pictures, contract, num_frames=num_frames, num_known=num_known)
        for one in pictures:
            portrait = framing.shown(read_portrait(one.path, framing, crop=self.cuts_face(contract)))
            found.append(KnownFrames(within(one.at_s, contract, num_frames), portrait, self.exact))
        return found

    def voices(self, contract: Contract) -> Voices | None:
        """The sound of a model that takes sound: what was recorded, and otherwise silence for `seconds`.

        Raises:
            ValueError: sound for a model that takes no sound, or neither sound nor a length.
        """
        given = {name: path for name, path in (("audio", self.audio), ("user", self.user)) if path is not None}
        if given and not contract.takes_sound:
            name, path = next(iter(given.items()))
            raise ValueError(
                f"{name}={path} must be left out: the model of {self.artifact} takes no sound. Give seconds= instead, "
                "or take an artifact with an agent condition."
            )
        if not given and self.seconds is None:
            needed = "audio=... or seconds=..." if contract.takes_sound else "seconds=..."
            raise ValueError(f"{needed} must be given: nothing else says how long the clip is.")
        if not contract.takes_sound:
            return None
        return read_voices(self.audio, self.user) if given else silence(self.num_frames(contract, None), contract)

    def num_frames(self, contract: Contract, voices: Voices | None) -> int:
        """Pixel frames of the clip: of `seconds`, else up to the frame in which the sound ends."""
        if self.seconds is not None:
            return max(1, round(self.seconds * contract.fps))
        assert voices is not None, "`voices` has refused a clip without a length"
        return -(-len(voices.agent) // contract.audio.frame_samples)


def timed_numbers(act: Any) -> list[TimedNumbers]:
    """Numbers by name, or several such mappings with `at` in seconds, in the order of their times.

    Raises:
        ValueError: an entry is no mapping, or its `at` is no time.
    """
    entries = [act] if isinstance(act, Mapping) else act or []
    found = []
    for entry in entries:
        at_s: Any = entry.get("at", 0) if isinstance(entry, Mapping) else None
        if not (_is_number(at_s) and 0 <= at_s < math.inf):
            raise ValueError(
                f"act has {entry}, must have numbers by name and may have at, a time of at least 0 seconds, such "
                "as act='[{joy: 0.5}, {at: 3, joy: null}]'."
            )
        found.append(TimedNumbers(float(at_s), {name: value for name, value in entry.items() if name != "at"}))
    return sorted(found, key=lambda one: one.at_s)


def read_portrait(path: str | Path, framing: Framing, *, crop: bool) -> UInt8[np.ndarray, "h w 3"]:
    """The part around the face of an image (`gwm.media.portraits.crop_to_face`), or around its centre without `crop`.

    Raises:
        ValueError: the file is no image, or shows no face that could be cut out.
    """
    image = read_image(path)
    if not crop:
        return crop_to_centre(image, framing.frame, f"{path}", margin=framing.margin)
    try:
        return crop_to_face(image, framing.frame, FaceMesh(), margin=framing.margin)
    except ValueError as error:
        raise ValueError(f"{path}: {error} Or take its centre as it is: crop=false.") from error


def read_voices(audio: str | Path | None, user: str | Path | None) -> Voices:
    """Both sides of a conversation, the shorter one continued with silence; a side without a recording is silent."""
    agent, other = (np.zeros(0, np.float32) if path is None else read_audio(path) for path in (audio, user))
    length = max(len(agent), len(other))
    return Voices(np.pad(agent, (0, length - len(agent))), np.pad(other, (0, length - len(other))))


def silence(num_frames: int, contract: Contract) -> Voices:
    """Of both sides."""
    quiet = np.zeros(num_frames * contract.audio.frame_samples, np.float32)
    return Voices(quiet, quiet)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
