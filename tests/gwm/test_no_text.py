import dataclasses
from pathlib import Path

import torch

from gwm.no_text import padded_text, read_no_text, save_no_text
from tests.tiny import speech


def test_tokens_of_the_empty_prompt_come_back_as_they_were_saved(tmp_path: Path):
    tokens = torch.randn(2, 6)
    save_no_text(tmp_path, tokens)
    found = read_no_text(tmp_path)
    assert found is not None and torch.equal(found, tokens)
    assert read_no_text(tmp_path / "elsewhere") is None


def test_an_absent_prompt_is_what_a_dropped_text_becomes():
    tokens = torch.randn(2, 6)
    condition = speech(1).with_tokens(text=torch.randn(2, 4, 6))
    dropped = dataclasses.replace(condition, nothing={"text": tokens}).dropped("text")
    expected = torch.cat([tokens, torch.zeros(2, 6)])
    assert torch.equal(padded_text(tokens, 4), expected)
    assert torch.equal(dropped["text"], torch.stack([expected, expected]))


def test_a_long_text_keeps_its_first_tokens():
    tokens = torch.randn(5, 6)
    assert torch.equal(padded_text(tokens, 3), tokens[:3])
