"""In which precision models are computed, and that commands pass on what was asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import serve.generate
from gwm.autoencoders.haar import HaarAutoencoder
from gwm.dit import DiT
from gwm.tf32 import allow_tf32
from gwm.weights import save_weights
from serve.artifact import chosen_dtype, load_artifact
from serve.generate import generate
from serve.request import ClipRequest
from serve.stream import Stream
from tests.serve.conftest import tiny_contract
from train.networks import dit_header


@pytest.mark.parametrize(
    ("capability", "device", "dtype"),
    [
        ((7, 5), None, torch.float32),
        ((8, 0), None, torch.bfloat16),
        ((9, 0), "cuda:1", torch.bfloat16),
        ((9, 0), "cpu", torch.float32),
        (None, None, torch.float32),
    ],
)
def test_bfloat16_is_chosen_for_gpus_that_have_units_for_it(
    capability: tuple[int, int] | None, device: str | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: capability)
    assert chosen_dtype("auto", device) == dtype
    assert chosen_dtype("float32", device) == torch.float32
    assert chosen_dtype("bfloat16", device) == torch.bfloat16


def test_what_is_loaded_in_float32_is_exact(folder: Path):
    allow_tf32(True)
    load_artifact(folder)
    assert not torch.backends.cudnn.allow_tf32


def test_a_clip_is_computed_in_the_precision_that_was_asked_for(
    folder: Path,
    run: Path,
    trained: tuple[DiT, HaarAutoencoder],
    portrait: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    computed = list[torch.dtype]()

    class Seen(serve.generate.Engine):
        def __init__(self, artifact: Any, **more: Any) -> None:
            super().__init__(artifact, **more)
            computed.extend((self.rollout.cache.k.dtype, next(iter(artifact.vae.state_dict().values())).dtype))

    monkeypatch.setattr(serve.generate, "Engine", Seen)
    Image.fromarray(portrait).save(tmp_path / "face.png")
    soundfile.write(tmp_path / "speech.wav", np.zeros(8000), 16_000)
    stage = run / "dmd" / "weights"
    save_weights(stage, trained[0].state_dict(), dit_header(tiny_contract(chunk_frames=1)))
    for model in (folder, stage):
        for dtype in ("auto", "bfloat16"):
            out = str(tmp_path / "clip.mp4")
            asked = {"image": str(tmp_path / "face.png"), "audio": str(tmp_path / "speech.wav"), "crop": False}
            generate(ClipRequest(artifact=str(model), out=out, dtype=dtype, **asked))
    assert computed == 2 * (2 * [torch.float32] + 2 * [torch.bfloat16])
    assert Stream(folder, dtype="bfloat16").engine.rollout.cache.k.dtype == torch.bfloat16


def test_what_is_no_precision_is_refused_before_anything_is_loaded(folder: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"dtype='half' must be one of auto, float32, bfloat16\."):
        generate(ClipRequest(artifact=str(folder), out=str(tmp_path / "clip.mp4"), dtype="half"))
