"""A caption's tokens are those that diffusers' pipeline gives the transformer."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from gwm.wan.text import UMT5
from tests.wan import save_text_encoder

CAPTION = "a woman  smiles &amp; talks"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_encoder(tmp_path_factory.mktemp("pipeline"), width=16)


@pytest.mark.parametrize("caption", [CAPTION, ""])
@torch.no_grad()
def test_tokens_are_those_of_diffusers_pipeline(folder: Path, caption: str):
    from diffusers import WanPipeline
    from transformers import AutoTokenizer, UMT5EncoderModel

    parts: dict[str, Any] = {
        "tokenizer": AutoTokenizer.from_pretrained(folder / "tokenizer"),
        "text_encoder": UMT5EncoderModel.from_pretrained(folder / "text_encoder"),
    }
    pipeline = WanPipeline(**parts, vae=None, scheduler=None, transformer=None)
    expected = pipeline._get_t5_prompt_embeds(caption, max_sequence_length=512, device=torch.device("cpu"))[0]
    tokens = UMT5(str(folder))(caption)
    assert 0 < len(tokens) < 10
    torch.testing.assert_close(tokens, expected[: len(tokens)], rtol=1e-5, atol=1e-5)
    assert not expected[len(tokens) :].any()


def test_a_caption_that_is_too_long_is_cut_as_in_training(folder: Path):
    assert len(UMT5(str(folder))("talks " * 600)) == 512


def test_it_travels_to_workers_without_its_weights(folder: Path):
    encoder = UMT5(str(folder))
    tokens = encoder(CAPTION)
    parcel = pickle.dumps(encoder)
    assert len(parcel) < 1000
    assert torch.equal(pickle.loads(parcel)(CAPTION), tokens)


def test_its_name_changes_with_its_weights(folder: Path, tmp_path: Path):
    other = save_text_encoder(tmp_path, width=16, seed=1)
    assert UMT5(str(other)).name != UMT5(str(folder)).name


def test_a_folder_without_a_text_encoder_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"must have text_encoder/ and tokenizer/.*text\.folder="):
        UMT5(str(tmp_path))
