"""Wan's text encoder, umT5, through transformers: from a caption to the tokens that the transformer attends to."""

import html
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gwm.optional import optional_module
from gwm.wan.files import component, folder_digest
from gwm.wan.pretrained import COMMAND, check_part, load_encoder

MAX_TOKENS = 512  # as in training; what follows of a longer caption is not seen
CLEANING = "ftfy"  # part of the encoder's name: captions that were encoded with another cleaning are encoded again


class UMT5:
    """Reads `tokenizer/` and `text_encoder/` of a diffusers pipeline at the first call. A pickled encoder has no
    weights."""

    def __init__(self, folder: str, *, device: str = "cpu") -> None:
        """Check that the text encoder is there; its weights are loaded at the first call.

        Raises:
            FileNotFoundError: the folder has no text encoder.
        """
        self.folder, self.device = Path(folder), device
        if not (self.folder / "text_encoder" / "config.json").is_file():
            raise FileNotFoundError(
                f"{self.folder} must have text_encoder/ and tokenizer/, as a diffusers pipeline has: Wan attends to "
                "tokens of umT5. The original release's .pth is not read; take these two folders of the -Diffusers "
                "release, and name them with text.folder=."
            )
        parts = component(self.folder, "text_encoder"), self.folder / "tokenizer"
        self.name = "-".join(["umt5", CLEANING, *map(folder_digest, parts)])
        self._loaded: tuple[Any, Any] | None = None

    @torch.no_grad()
    def __call__(self, caption: str) -> Float[Tensor, "s t"]:
        """Tokens of a caption, 512 at most; an empty caption has only the end token."""
        tokenizer, model = self._loaded = self._loaded or self._load()
        tokens = tokenizer(prompt_clean(caption), max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
        tokens = tokens.to(self.device)
        return model(tokens.input_ids, tokens.attention_mask).last_hidden_state[0].float().cpu()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": None}

    def _load(self) -> tuple[Any, Any]:
        check_part(self.folder / "tokenizer")
        transformers = optional_module("transformers", COMMAND)
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder / "tokenizer")
        model = load_encoder("UMT5EncoderModel", self.folder / "text_encoder", kinds=("umt5",), dtype="auto")
        return tokenizer, model.to(self.device)


def prompt_clean(caption: str) -> str:
    """The caption as Wan's tokenizer is given it: damaged encodings, typographic quotes, ligatures and full-width
    letters made plain by ftfy, HTML entities resolved twice, white space single.

    Source: Wan2.1 wan/modules/tokenizers.py, basic_clean and whitespace_clean; diffusers' `prompt_clean`.

    Raises:
        MissingPackageError: ftfy is not installed. diffusers would leave it out and make other tokens.
    """
    fixed = optional_module("ftfy", COMMAND).fix_text(caption)
    return " ".join(html.unescape(html.unescape(fixed)).split())
