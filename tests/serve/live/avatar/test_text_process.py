"""Prompts that are encoded elsewhere have the tokens of the encoder itself."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from gwm.wan.encoders import UMT5
from serve.live.avatar.changes import ChangeRefusedError
from serve.live.avatar.text_process import TextProcess
from tests.serve.world import TEXT
from tests.wan import save_text_encoder


@pytest.mark.slow
def test_tokens_are_those_of_training_and_what_is_missing_is_said(tmp_path: Path):
    folder = str(save_text_encoder(tmp_path / "hub", width=TEXT))

    async def run() -> None:
        process = TextProcess(folder, "nowhere")
        try:
            made = await process.tokens("a woman smiles")
            assert np.array_equal(made, UMT5(folder)("a woman smiles").half().float().numpy())
        finally:
            process.close()
        process = TextProcess(None, str(tmp_path))
        try:
            with pytest.raises(ChangeRefusedError, match=r"text_encoder=\.\.\. must be given"):
                await process.tokens("rain")
        finally:
            process.close()

    asyncio.run(run())
