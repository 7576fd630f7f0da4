"""Tokens of the empty prompt, kept beside the weights of every model with a text condition.

A training clip without a caption has them, and so has a dropped text; a stream without a prompt must have the same.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gwm.files.outputs import write_tensors
from gwm.files.tensors import check_finite, read_tensor_file

NO_TEXT_FILE = "no_text.safetensors"
TOKENS = "tokens"  # the file's only tensor


def save_no_text(folder: Path, tokens: Float[Tensor, "q t"]) -> None:
    check_finite({TOKENS: tokens}, source=f"tokens of the empty prompt for {folder}")
    write_tensors(folder / NO_TEXT_FILE, {TOKENS: tokens})


def read_no_text(folder: Path) -> Float[Tensor, "q t"] | None:
    """The tokens of the empty prompt; None where the model has no text condition, or was trained by a version that did
    not save them."""
    path = folder / NO_TEXT_FILE
    return read_tensor_file(path, remedy="Copy the whole folder again.")[TOKENS] if path.is_file() else None


def padded_text(text: Float[Tensor, "s t"], length: int) -> Float[Tensor, "m t"]:
    """The first `length` tokens of a text; zeros behind a shorter one, as Wan has them."""
    text = text[:length]
    return torch.cat([text, text.new_zeros(length - len(text), text.shape[1])])
