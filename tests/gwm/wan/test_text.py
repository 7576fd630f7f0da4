"""A caption's tokens are those that diffusers' pipeline gives the transformer."""

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gwm.wan.encoders import UMT5, prompt_clean
from tests.wan import save_text_encoder, their_tokens

CAPTION = "a woman  smiles &amp; talks"
# What ftfy, html.unescape and white space make other tokens of.
HARD = [
    CAPTION,
    "the woman\u2019s \u201csmile\u201d \u2014 a \u2018test\u2019\u2026",  # typographic quotes, dash, ellipsis
    "\uff21 woman\uff0c smiles\uff01\uff08talks\uff09",  # full-width letters and punctuation
    "\u4e00\u4e2a\u5973\u4eba\uff0c\u5fae\u7b11\u3002\u3000\u201c\u597d\u201d",  # Chinese
    "o\ufb03ce, \ufb01ne \ufb02oor",  # ligatures
    "caf\u00c3\u00a9 and it\u00e2\u20ac\u2122s",  # UTF-8 read as something else
    "caf\u0065\u0301",  # an accent of its own
    "&amp;amp;amp; &lt;b&gt; &amp;quot;x&amp;quot; &#39;y&#39; &nbsp; z",  # entities, twice and thrice
    "a\u00a0woman\u2003smiles\t\r\n\ntalks \u200b\ufeff",  # white space of all kinds, and none
    "a\u0000b\u001b[31mc\u0085d\u2028e",  # control characters, line ends
    "",
    "  ",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_encoder(tmp_path_factory.mktemp("pipeline"), width=16)


@pytest.mark.parametrize("caption", HARD)
def test_captions_are_cleaned_as_diffusers_does(caption: str):
    from diffusers.pipelines.wan import pipeline_wan

    assert pipeline_wan.is_ftfy_available(), "without ftfy diffusers is no judge"
    assert prompt_clean(caption) == pipeline_wan.prompt_clean(caption)


def test_captions_become_plain_in_the_right_order():
    """In a text with tags ftfy leaves entities alone; what they resolve to after it stays as it is."""
    assert prompt_clean("it\u2019s \ufb01ne\uff0c <b> &rsquo;&amp;nbsp; yes ") == "it's fine, <b> \u2019 yes"


@pytest.mark.parametrize("caption", [CAPTION, "", "a woman\u2019s  \uff21"])
@torch.no_grad()
def test_tokens_are_those_of_diffusers_pipeline(folder: Path, caption: str):
    expected = their_tokens(folder, caption)
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


def test_an_apostrophe_of_a_word_processor_is_that_of_a_keyboard(folder: Path):
    """The vocabulary has the plain one: another would be an unknown word."""
    encoder = UMT5(str(folder))
    plain = encoder("a woman 's")
    assert torch.equal(encoder("a woman \u2019s"), plain)
    assert not torch.equal(encoder("a woman \u266bs"), plain)


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


@pytest.mark.parametrize("part", ["text_encoder/model.safetensors", "tokenizer/tokenizer.json"])
def test_a_pointer_in_place_of_a_file_is_named(folder: Path, tmp_path: Path, part: str):
    other = copied(folder, tmp_path)
    (other / part).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    with pytest.raises(ValueError, match=rf"{part} is a git-LFS pointer"):
        UMT5(str(other))("a")


def test_a_truncated_encoder_is_named(folder: Path, tmp_path: Path):
    path = copied(folder, tmp_path) / "text_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"text_encoder/model\.safetensors is no whole safetensors file"):
        UMT5(str(path.parents[1]))("a")


def test_another_models_encoder_is_an_error(folder: Path, tmp_path: Path):
    path = copied(folder, tmp_path) / "text_encoder" / "config.json"
    path.write_text(path.read_text().replace('"umt5"', '"t5"'))
    with pytest.raises(ValueError, match=r"text_encoder/config\.json has model_type='t5', must be one of \['umt5'\]"):
        UMT5(str(path.parents[1]))("a")


def test_an_encoder_that_lacks_a_tensor_is_not_completed_at_random(folder: Path, tmp_path: Path):
    path = copied(folder, tmp_path) / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    del weights["encoder.final_layer_norm.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"text_encoder lacks 1 tensors .*encoder\.final_layer_norm\.weight"):
        UMT5(str(path.parents[1]))("a")


def test_an_encoder_with_values_that_are_not_finite_is_an_error(folder: Path, tmp_path: Path):
    path = copied(folder, tmp_path) / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    weights["encoder.final_layer_norm.weight"][0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"encoder\.final_layer_norm\.weight \(1 of 16 values\)"):
        UMT5(str(path.parents[1]))("a")
