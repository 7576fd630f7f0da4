"""Wan's text encoder, umT5, through transformers: from a caption to the tokens that the transformer attends to."""

import html
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gwm.optional import optional_module
from gwm.wan.files import component, folder_digest

COMMAND = "pip install 'gwm[wan]'"
MOST_TOKENS = 512  # as in training; what follows of a longer caption is not seen


class UMT5:
    """Reads `tokenizer/` and `text_encoder/` of a diffusers pipeline when it is first asked; pickles without them."""

    def __init__(self, folder: str, *, device: str = "cpu") -> None:
        """
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
        self.name = "-".join(["umt5", *map(folder_digest, parts)])
        self._loaded: tuple[Any, Any] | None = None

    @torch.no_grad()
    def __call__(self, caption: str) -> Float[Tensor, "s t"]:
        """At most 512 tokens; an empty caption has one, which ends it."""
        tokenizer, model = self._loaded = self._loaded or self._load()
        tokens = tokenizer(_plain(caption), max_length=MOST_TOKENS, truncation=True, return_tensors="pt")
        tokens = tokens.to(self.device)
        return model(tokens.input_ids, tokens.attention_mask).last_hidden_state[0].float().cpu()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": None}

    def _load(self) -> tuple[Any, Any]:
        transformers = optional_module("transformers", COMMAND)
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder / "tokenizer")
        model = transformers.UMT5EncoderModel.from_pretrained(self.folder / "text_encoder", dtype="auto")
        return tokenizer, model.eval().requires_grad_(False).to(self.device)


def _plain(caption: str) -> str:
    """Without HTML entities and repeated white space, as Wan's captions were in training."""
    return " ".join(html.unescape(html.unescape(caption)).split())
