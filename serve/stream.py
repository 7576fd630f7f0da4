"""The Python interface of a stream: load a model once, start it with an image, push sound, prompts and numbers, take
frames.

stream = Stream("weights/character")
stream.start("me.jpg")
stream.push("speech.mp3")
stream.finish()
for frame in stream: ...
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from gwm.media.video import read_audio
from gwm.no_text import padded_text
from serve.acts import Applied, Numbers
from serve.artifact import chosen_dtype, load_artifact
from serve.engine import Engine
from serve.graphs import capture_on
from serve.prompts import Texts
from serve.request import read_portrait

Picture = UInt8[np.ndarray, "h w 3"]
Sound = str | Path | Float[np.ndarray, " t"]  # a file with sound, or samples at `sample_rate`


class Stream:
    """An exported model that makes frames, `fps` a second, as soon as what they depend on is there.

    Iterate over it: every frame that is ready comes, and the iteration ends when more sound is needed; go on with
    another `for` after `push`. A model that takes no sound is always ready, until `finish`. Sound, prompts, numbers and
    rewinds may be given while iterating: each says by its result from which chunk on it holds.
    """

    def __init__(
        self,
        artifact: str | Path,
        *,
        seed: int = 0,
        size: int | None = None,
        undo_chunks: int = 0,
        device: str | None = None,
        dtype: str = "auto",
        text_encoder: str | None = None,
    ) -> None:
        """size: px along each side of frames; None: as `Contract.picture_size`. undo_chunks: how far `rewind` can go
        back. device: None: the GPU where there is one. dtype: float32 or bfloat16; auto: as `chosen_dtype`
        says. text_encoder: a folder of Wan's -Diffusers release, for prompts; None: the artifact's own.

        Raises:
            FileNotFoundError, ValueError: there is no artifact, or it is damaged.
            RuntimeError: it does not fit into memory.
        """
        loaded = load_artifact(artifact, device=device, dtype=chosen_dtype(dtype, device))
        capture = capture_on(loaded.dit.head.weight.device)
        self.engine = Engine(loaded, seed=seed, size=size, undo_chunks=undo_chunks, capture=capture)
        self.texts = Texts(text_encoder, str(artifact))
        self._rewinds = 0

    @property
    def fps(self) -> int:
        return self.engine.contract.fps

    @property
    def sample_rate(self) -> int:
        """Of all sound, in Hz."""
        return self.engine.contract.audio.sample_rate

    @property
    def controls(self) -> dict[str, tuple[float, float]]:
        """Names for `act`, with the minimum and the maximum of each."""
        return {control.name: (control.minimum, control.maximum) for control in self.engine.contract.controls}

    @property
    def next_chunk(self) -> Applied:
        """The chunk that is made next, and the media time at which it begins."""
        return self.engine.timeline.next_chunk()

    def start(self, image: str | Path | Picture, *, prompt: str | None = None, crop: bool = True) -> None:
        """A new stream behind this image. crop: cut out the face; False: the centre, for pictures without a face.

        Raises:
            ValueError: the image cannot be used, or a prompt is given to a model without a text condition.
            FileNotFoundError: there is no text encoder.
        """
        portrait = image if isinstance(image, np.ndarray) else read_portrait(image, self.engine.framing, crop=crop)
        self._rewinds += 1
        self.engine.start(portrait, None if prompt is None else self._tokens(prompt))

    def push(self, agent: Sound, user: Sound | None = None) -> None:
        """Append the character's voice, and the other's meanwhile; None: silence.

        Raises:
            ValueError: the two differ in length, or the model takes no sound.
        """
        voice = _samples(agent)
        self.engine.push(voice, np.zeros_like(voice) if user is None else _samples(user))

    def finish(self, seconds: float | int | None = None) -> None:
        """End the stream after so many seconds, or with the sound that was pushed; silence fills what is missing."""
        self.engine.finish(None if seconds is None else max(1, round(seconds * self.fps)))

    def set_prompt(self, text: str, *, at_s: float | None = None) -> Applied:
        """The text that the stream follows from the next chunk on, or from a later media time.

        Raises:
            ValueError: the model has no text condition, or that time is over.
            FileNotFoundError: there is no text encoder.
        """
        return self.engine.set_prompt(self._tokens(text), at_s=at_s)

    def act(self, numbers: Numbers | None, *, at_s: float | None = None) -> Applied:
        """Numbers by name (`controls`), from the next chunk on or from a later media time: each stays until it is
        changed, or released by None. A list has a value for each frame, and its last one stays. None releases all.

        Raises:
            ValueError: a name that the model does not have, a value outside of its limits, or that time is over.
        """
        return self.engine.act(numbers, at_s=at_s)

    def keyframe(self, image: str | Path | Picture, *, at_s: float, exact: bool = False, crop: bool = True) -> Applied:
        """A picture that the stream goes towards and shows at a media time, for a latent frame (`fps` / 4 of them a
        second): the chunk that shows it, and when that begins. exact: its latents are copied and not made.

        Raises:
            ValueError: the model takes no keyframes, that time is over or has one already, or the image cannot be used.
            RuntimeError: the stream was not started.
        """
        framing = self.engine.framing
        picture = image if isinstance(image, np.ndarray) else read_portrait(image, framing, crop=crop)
        return self.engine.keyframe(picture, at_s=at_s, exact=exact)

    def rewind(self, chunks: int) -> Applied:
        """Go back by the latest chunks, as if they had never been; their sound waits again.

        Raises:
            ValueError: more chunks than `undo_chunks`, or than there were.
        """
        applied = self.engine.rewind(chunks)
        self._rewinds += 1
        return applied

    def silence(self) -> None:
        """Let the character fall silent: what it had still to say becomes silence."""
        self.engine.silence()

    def __iter__(self) -> Iterator[Picture]:
        while self.engine.ready:
            rewinds = self._rewinds
            for frame in self.engine.step():
                yield frame
                if rewinds != self._rewinds:  # what is left of the chunk has never been
                    break

    def _tokens(self, text: str) -> Float[torch.Tensor, "1 s t"]:
        if not self.engine.contract.dit.width("text"):
            raise ValueError(f"prompt={text!r} must be left out: the model has no text condition.")
        return padded_text(self.texts.tokens(text), self.engine.text_tokens)[None]


def _samples(sound: Sound) -> Float[np.ndarray, " t"]:
    return np.asarray(sound, np.float32) if isinstance(sound, np.ndarray) else read_audio(sound)
