"""Models before distillation through the same command: a stage's weights, and a published pipeline."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor

from gwm.attention import MaskedClip
from gwm.autoencoders.haar import HaarAutoencoder
from gwm.chunks import whole_clip
from gwm.condition.inputs import Conditions
from gwm.convert import load_wan
from gwm.dit import DiT
from gwm.guidance import Guidance
from gwm.guided_rollout import Guided
from gwm.media.pixels import to_uint8
from gwm.media.video import read_audio, read_video, write_video
from gwm.sampler import frame_noise
from gwm.schedule import sigma_steps
from gwm.wan.text import UMT5
from gwm.wan.vae import load_wan_vae
from gwm.weights import save_weights
from serve.artifact import Artifact
from serve.engine import Engine
from serve.generate import generate
from serve.request import ClipRequest
from tests.serve.conftest import tiny_contract
from tests.wan import in_diffusers, reduced, save_text_encoder
from train.network import dit_facts

TEXT = 16
FRAMES = 3  # latent frames in a second of voices are six


@pytest.fixture
def asked(tmp_path: Path, portrait: np.ndarray, voices: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    Image.fromarray(portrait).save(tmp_path / "face.png")
    soundfile.write(tmp_path / "speech.wav", voices[0], 24_000, subtype="FLOAT")
    given = {"image": str(tmp_path / "face.png"), "audio": str(tmp_path / "speech.wav"), "crop": False, "seed": 3}
    return given | {"out": str(tmp_path / "talk.mp4")}


def shown(frames: np.ndarray, folder: Path, sound: np.ndarray | None, *, fps: int = 24) -> np.ndarray:
    """What a film of the frames shows: its codec loses something."""
    write_video(folder / "expected.mp4", frames, sound, fps=fps)
    return read_video(folder / "expected.mp4")[0]


def test_a_bidirectional_stage_is_sampled_as_one_clip_of_the_wanted_length(
    run: Path, trained: tuple[DiT, HaarAutoencoder], asked: dict[str, Any], portrait: np.ndarray, tmp_path: Path
):
    """Of another length than it was trained with; its autoencoder is found beside it."""
    rules = tiny_contract(chunk_frames=1).replace(pattern=whole_clip(FRAMES + 1, first_frames=1), horizon_frames=FRAMES)
    rules = rules.replace(solver="ode", sigmas=(1.0,))
    folder = run / "bidirectional" / "weights"
    save_weights(folder, trained[0].state_dict(), gate={}, **dit_facts(rules))
    generate(ClipRequest(artifact=str(folder), steps=3, shift=2, guidance=2, **asked))
    pattern, levels = whole_clip(7, first_frames=1), tuple(sigma_steps(3, shift=2.0))
    rules = rules.replace(pattern=pattern, horizon_frames=6, sigmas=levels)
    artifact = Artifact(rules, *trained, guided=Guided(Guidance(agent=2.0), {}))
    agent = read_audio(asked["audio"])
    frames, times = Engine(artifact, seed=3).play(portrait, agent, np.zeros_like(agent))
    assert len(times) == 1
    assert np.array_equal(read_video(asked["out"])[0], shown(frames, tmp_path, agent))


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"steps": 50}, r"steps=50 must be left out: .* is distilled"),
        ({"guidance": 2.0}, r"guidance=2\.0 must be left out: .* is distilled"),
        ({"vae": "NOWHERE"}, "vae=NOWHERE does not exist"),
        ({"negative_prompt": "rain"}, "negative_prompt=... must be left out: it says what guidance leads away from"),
    ],
)
def test_a_student_has_steps_of_its_own(run: Path, asked: dict[str, Any], settings: dict[str, Any], rule: str):
    with pytest.raises((ValueError, FileNotFoundError), match=rule):
        generate(ClipRequest(artifact=str(run / "dmd" / "weights"), **asked, **settings))


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A pipeline's folder: Wan 2.1 1.3B with random weights, reduced in width and depth."""
    from diffusers import AutoencoderKLWan

    folder = tmp_path / "Wan2.1-T2V-1.3B-Diffusers"
    config = dataclasses.replace(reduced("wan2_1_1_3b"), num_layers=1, ffn_dim=64)
    in_diffusers(config, text_dim=TEXT).save_pretrained(folder / "transformer")
    AutoencoderKLWan(base_dim=4).save_pretrained(folder / "vae")
    return save_text_encoder(folder, width=TEXT)


@torch.no_grad()
def test_a_published_pipeline_makes_a_guided_clip_of_a_text(hub: Path, tmp_path: Path):
    """Against Euler steps over the whole clip, written down apart from every rollout and cache."""
    out, size = str(tmp_path / "clip.mp4"), {"height": 32, "width": 48, "seconds": 0.5, "seed": 3}
    words = {"prompt": "a woman smiles", "negative_prompt": "talks"}
    generate(ClipRequest(artifact=str(hub), out=out, steps=2, guidance=3, **size, **words))
    model, vae, encoder = load_wan(hub), load_wan_vae(hub), UMT5(str(hub))
    x = frame_noise((1, FRAMES, 16, 4, 6), seed=3, frame=0, step=0)

    def velocity(caption: str, x: Tensor, sigma: float) -> Tensor:
        own = encoder(caption).half().float()
        text = torch.cat([own, torch.zeros(512 - len(own), TEXT)])[None]
        levels, positions = torch.full((1, FRAMES), sigma), torch.arange(FRAMES)
        condition = Conditions(tokens={"text": text})
        return model(x, levels, condition, positions=positions, context=MaskedClip(None)).velocity

    middle = 5 * 0.5 / (1 + 4 * 0.5)  # half way, shifted by 5
    for sigma, below in ((1.0, middle), (middle, 0.0)):
        away = velocity("talks", x, sigma)
        x = x + (below - sigma) * (away + 3 * (velocity("a woman smiles", x, sigma) - away))
    expected = shown(to_uint8(vae.decode_pixels(x)[0][0]), tmp_path, None, fps=16)
    found, fps = read_video(out)
    assert fps == 16 and len(found) == 9  # of eight that were asked for
    assert np.abs(found.astype(int) - expected).mean() < 0.5


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({}, r"prompt=\.\.\. must be given"),
        ({"prompt": "a", "image": "face.png"}, r"image=face\.png must be left out: the published model"),
        ({"prompt": "a", "height": 30}, "resolution=30x48 must have .* multiples of .* = 16"),
        ({"prompt": "a", "guidance": 1, "negative_prompt": "s"}, "negative_prompt=... must be left out"),
    ],
)
def test_what_a_published_model_is_not_given_is_refused_by_name(
    hub: Path, tmp_path: Path, settings: dict[str, Any], rule: str
):
    size = {"height": 32, "width": 48, "seconds": 0.1, "steps": 1}
    with pytest.raises(ValueError, match=rule):
        generate(ClipRequest(artifact=str(hub), out=str(tmp_path / "clip.mp4"), **(size | settings)))
