"""What an image-to-video model is given is what diffusers' pipeline gives it."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gwm.media.pixels import to_float
from gwm.wan.encoders import CLIPImage, image_channels
from gwm.wan.vae import load_wan_vae
from tests.wan import save_image_encoder

FP32 = 1e-5
FRAMES, HEIGHT, WIDTH = 3, 32, 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import AutoencoderKLWan

    folder = save_image_encoder(tmp_path_factory.mktemp("pipeline"), width=16)
    torch.manual_seed(0)
    AutoencoderKLWan(base_dim=4).save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    from diffusers import AutoencoderKLWan, WanImageToVideoPipeline
    from transformers import CLIPImageProcessorPil, CLIPVisionModel

    parts: dict[str, Any] = {
        "image_processor": CLIPImageProcessorPil.from_pretrained(folder / "image_processor"),
        "image_encoder": CLIPVisionModel.from_pretrained(folder / "image_encoder"),
        "vae": AutoencoderKLWan.from_pretrained(folder / "vae"),
    }
    return WanImageToVideoPipeline(**parts, tokenizer=None, text_encoder=None, scheduler=None, transformer=None)


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


@torch.no_grad()
def test_tokens_are_those_of_diffusers_pipeline(folder: Path, pipeline: Any, picture: np.ndarray):
    expected = pipeline.encode_image(Image.fromarray(picture), device=torch.device("cpu"))[0]
    tokens = CLIPImage(str(folder))(picture)
    assert tokens.shape == (5, 16)
    torch.testing.assert_close(tokens, expected, rtol=FP32, atol=FP32)


@torch.no_grad()
def test_channels_are_those_of_diffusers_pipeline(folder: Path, pipeline: Any, picture: np.ndarray):
    image = to_float(picture)[None]
    _, expected = pipeline.prepare_latents(image, 1, 16, HEIGHT, WIDTH, 1 + 4 * FRAMES, torch.float32, "cpu", None)
    own, after = image_channels(load_wan_vae(folder), image, FRAMES)
    assert own.shape[1] == 1 and after.shape[1] == FRAMES
    torch.testing.assert_close(torch.cat([own, after], 1).transpose(1, 2), expected, rtol=0, atol=FP32)


def test_it_travels_to_workers_without_its_weights(folder: Path, picture: np.ndarray):
    encoder = CLIPImage(str(folder))
    tokens = encoder(picture)
    parcel = pickle.dumps(encoder)
    assert len(parcel) < 1000
    assert torch.equal(pickle.loads(parcel)(picture), tokens)


def test_a_folder_without_an_image_encoder_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"image_encoder/config\.json must exist.*image\.folder="):
        CLIPImage(str(tmp_path))
