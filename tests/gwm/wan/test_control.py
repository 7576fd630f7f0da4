"""VACE's second stack of blocks, and its channels of a film, are those of diffusers."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gwm.config import DiTConfig
from gwm.control import CONTROL
from gwm.convert import load_wan, save_diffusers
from gwm.media.pixels import to_float
from gwm.wan.encoders import control_channels
from gwm.wan.vae import load_wan_vae
from tests.wan import COLUMNS, ROWS, family_clip, in_diffusers, in_gwm, our_velocity, reduced

FP32 = 1e-5
FRAMES = 3
# Something is added behind the first and the third of four layers.
VACE = dataclasses.replace(reduced("wan2_1_1_3b"), num_layers=4, control_layers=(0, 2), control_channels=96)


@torch.no_grad()
def test_the_transformer_is_that_of_diffusers():
    theirs = in_diffusers(VACE)
    ours = in_gwm(theirs, VACE)
    x, sigma, condition = family_clip(VACE, FRAMES)
    control = torch.randn(2, FRAMES, 96, ROWS, COLUMNS)
    made = our_velocity(ours, (x, sigma, dataclasses.replace(condition, channels={CONTROL: control})))
    given = {"encoder_hidden_states": condition["text"], "control_hidden_states": control.transpose(1, 2)}
    expected = theirs(x.transpose(1, 2), 1000 * sigma[:, 0], **given).sample.transpose(1, 2)
    assert expected.std() > 0.1
    torch.testing.assert_close(made, expected, rtol=0, atol=FP32)
    other = dataclasses.replace(condition, channels={CONTROL: 0 * control})
    assert (our_velocity(ours, (x, sigma, other)) - made).abs().max() > 0.01
    with pytest.raises(ValueError, match="condition 'control' is not given"):
        our_velocity(ours, (x, sigma, condition))


def test_a_folder_is_read_and_written_as_diffusers_does(tmp_path: Path):
    from diffusers import WanVACETransformer3DModel

    theirs = in_diffusers(VACE)
    theirs.save_pretrained(tmp_path / "transformer")
    model = load_wan(tmp_path)
    assert model.config == VACE
    save_diffusers(model, tmp_path / "back")
    back = WanVACETransformer3DModel.from_pretrained(tmp_path / "back").state_dict()
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.state_dict().items())


@torch.no_grad()
def test_channels_are_those_of_diffusers_pipeline(tmp_path: Path):
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanVACEPipeline

    torch.manual_seed(0)
    AutoencoderKLWan(base_dim=4).save_pretrained(tmp_path / "vae")
    parts: dict[str, Any] = {
        "vae": AutoencoderKLWan.from_pretrained(tmp_path / "vae"),
        "transformer": in_diffusers(VACE),
    }
    pipeline = WanVACEPipeline(**parts, scheduler=UniPCMultistepScheduler(), tokenizer=None, text_encoder=None)
    rng = np.random.default_rng(0)
    film, drawn = rng.integers(0, 256, (9, 32, 48, 3), np.uint8), rng.random((9, 32, 48)) < 0.3
    shown, mask = to_float(film)[None], torch.from_numpy(drawn)[None]
    video, masks = shown.transpose(1, 2), mask[:, None].float().expand(-1, 3, -1, -1, -1)
    cpu = torch.device("cpu")
    latents = pipeline.prepare_video_latents(video, masks, [[]], None, cpu)
    expected = torch.cat([latents, pipeline.prepare_masks(masks, [[]])], dim=1).transpose(1, 2)
    made = control_channels(load_wan_vae(tmp_path), shown, mask)
    assert made.shape == (1, 3, 96, 4, 6)
    torch.testing.assert_close(made, expected, rtol=0, atol=FP32)


@pytest.mark.parametrize("layers", [(2, 0), (0, 0), (0, 4), (-1,)])
def test_control_layers_that_the_model_does_not_have_are_refused(layers: tuple[int, ...]):
    with pytest.raises(ValueError, match="must be different layers of 4, in order"):
        dataclasses.replace(VACE, control_layers=layers)
    with pytest.raises(ValueError, match="go together: give both"):
        DiTConfig(control_layers=(0,))
