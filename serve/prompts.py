"""The prompts of a stream: texts, their tokens, and the chunk from which each holds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from gwm.condition.inputs import Conditions
from gwm.contract import Contract
from gwm.no_text import padded_text
from gwm.wan.encoders import UMT5
from serve.acts import applied_at

Tokens = Float[Tensor, "s t"]


@dataclass(frozen=True)
class TimedPrompt:
    """A text, and the media time from which it should hold."""

    at_s: float
    text: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.at_s) and self.at_s >= 0):
            raise ValueError(f"prompt at={self.at_s:g} must be a finite number of seconds, at least 0.")
        if not self.text.strip():
            raise ValueError(f"prompt at={self.at_s:g} has text={self.text!r}, must have words.")


class Prompt:
    """The tokens under which chunks are generated: the empty prompt's until another is set, now or for a later chunk.

    Nothing but `None` for a model without a text condition.
    """

    def __init__(self, contract: Contract, no_text: Float[Tensor, "q t"] | None, *, num_tokens: int, like: Tensor):
        """like: has the device and precision of all tokens.

        Raises:
            ValueError: the model has a text condition and there are no tokens of the empty prompt.
        """
        self.contract, self.like = contract, like
        self.nothing = self._padded(no_text, num_tokens)
        self.start()

    def start(self) -> None:
        """A new stream: the empty prompt."""
        self.text, self._later = self.nothing, dict[int, Float[Tensor, "1 s t"]]()

    def set(self, text: Float[Tensor, "1 s t"], *, chunk: int | None = None) -> None:
        """The prompt from the next chunk on, or from a later one.

        Raises:
            ValueError: the model has no text condition, or takes texts of another shape; or a text is set for this
                chunk already.
        """
        expected = None if self.nothing is None else tuple(self.nothing.shape)
        if tuple(text.shape) != expected:
            raise ValueError(
                f"text of shape {tuple(text.shape)} must be {expected}, as the model and the engine's text_tokens say. "
                "Pad the text, or make an engine with other text_tokens."
            )
        # By which tensor it is, others know that it is new.
        text = text.to(self.like.device, self.like.dtype, copy=True)
        if chunk is None:
            self.text = text
        elif chunk in self._later:
            raise ValueError(f"two prompts begin with chunk {chunk}; each must have chunks of its own. Leave one out.")
        else:
            self._later[chunk] = text

    def reach(self, chunk: int) -> None:
        """The next chunk that is taken is this one: what was set for it holds from now on."""
        self.text = self._later.pop(chunk, self.text)

    def beside(self, condition: Conditions) -> Conditions:
        """`condition` and the current prompt, of a model with a text condition."""
        return condition if self.text is None else condition.with_tokens(text=self.text)

    def _padded(self, no_text: Float[Tensor, "q t"] | None, num_tokens: int) -> Float[Tensor, "1 s t"] | None:
        """The empty prompt in as many tokens as every text has."""
        width = self.contract.dit.width("text")
        if not width:
            return None
        if no_text is None:
            raise ValueError(
                f"no_text is None, must be the empty prompt's tokens of width {width}: a stream without a prompt is "
                "generated under them, as in training. Export the artifact again."
            )
        return padded_text(no_text, num_tokens)[None].to(self.like)


def check_prompts(prompts: Sequence[TimedPrompt], contract: Contract, *, artifact: str, num_frames: int) -> None:
    """Refuse prompts that this model cannot follow, before anything is computed.

    Raises:
        ValueError: the model has no text condition, or a prompt begins after the clip.
    """
    if prompts and not contract.dit.width("text"):
        raise ValueError(
            f"prompt={prompts[0].text!r} must be left out: the model of {artifact} has no text condition. Leave it "
            "out, or take a model that was trained with one."
        )
    for prompt in prompts:
        begins = applied_at(contract, prompt.at_s)
        if begins.media_s * contract.fps >= num_frames:
            raise ValueError(
                f"prompt at={prompt.at_s:g} would begin with the chunk at {begins.media_s:.2f} s, must begin before "
                f"the clip ends at {num_frames / contract.fps:.2f} s. Raise seconds, or take an earlier time."
            )


class Texts:
    """Tokens of texts by Wan's text encoder: of the folder that is named, else of the model's own."""

    def __init__(self, folder: str | None, artifact: str) -> None:
        self.folder, self.artifact = folder, artifact
        self._encoder: UMT5 | None = None

    def tokens(self, text: str) -> Tokens:
        """In half precision, as training read them.

        Raises:
            FileNotFoundError: there is no text encoder.
        """
        if self._encoder is None:
            self._encoder = self._found()
        return self._encoder(text).half().float()

    def _found(self) -> UMT5:
        if self.folder is None and not Path(self.artifact, "text_encoder").is_dir():
            raise FileNotFoundError(
                f"text_encoder=... must be given: {self.artifact} has no text_encoder/ and tokenizer/ of its own, and "
                "a prompt needs them. Name the folder of a -Diffusers release of Wan, or copy or link the two "
                "folders there."
            )
        return UMT5(self.folder or self.artifact)
