"""Published folders are sampled as diffusers' pipelines do it, from the same noise."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gwm.guidance import Guidance
from gwm.media.pixels import to_uint8
from gwm.media.video import read_video, write_video
from gwm.rollout import Guided
from gwm.sampler import frame_noise
from gwm.wan.encoders import UMT5, CLIPImage
from gwm.wan.vae import load_wan_vae
from serve.generate import generate
from serve.published_clip import (
    FLF2V,
    I2V,
    T2V,
    TI2V,
    VACE,
    clip_of,
    contract_of,
    load_published,
    release_of,
    sample_clip,
    with_control,
)
from serve.request import ClipRequest
from tests.wan import TEXT, published_folder

FP32 = 1e-4
STEPS, FRAMES, HEIGHT, WIDTH = 10, 2, 32, 64
SCALE, SEED = 3.0, 3
CPU = torch.device("cpu")
FOLDERS = {"t2v": "wan2_1_1_3b", "i2v": "wan2_1_i2v_14b", "ti2v": "wan2_2_ti2v_5b"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: published_folder(tmp_path_factory.mktemp(name), family) for name, family in FOLDERS.items()}
    folder = tmp_path_factory.mktemp("flf2v")
    made["flf2v"] = published_folder(folder, "wan2_1_i2v_14b", pos_embed_seq_len=10)  # 514 in earnest
    vace = {"vace_layers": [0], "vace_in_channels": 96}
    return made | {"vace": published_folder(tmp_path_factory.mktemp("vace"), "wan2_1_1_3b", **vace)}


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture
def last_picture() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def asked(folder: Path, **settings: Any) -> ClipRequest:
    given = {"resolution": f"{HEIGHT}x{WIDTH}", "seconds": 0.2, "steps": STEPS, "guidance": SCALE, "seed": SEED}
    return ClipRequest(artifact=str(folder), **({"out": "clip.mp4"} | given | settings))


def ours(
    folder: Path, pictures: list[np.ndarray], texts: tuple[Tensor, Tensor], **settings: Any
) -> tuple[Tensor, tuple[float, ...]]:
    """Latents under the first text and away from the second, and the noise levels."""
    request = asked(folder, **settings)
    contract = contract_of(request, release_of(request.artifact))
    model = load_published(request, contract, device=CPU)
    model = dataclasses.replace(model, guided=Guided(Guidance(text=SCALE), {"text": texts[1]}))
    encoder = CLIPImage(str(folder)) if contract.dit.width("image") else None
    return sample_clip(model, clip_of(model, texts[0], pictures, encoder), seed=SEED), contract.sigmas


def euler(sigmas: tuple[float, ...]) -> Any:
    """diffusers' Euler steps through exactly these levels: its own are asked for by their number."""
    import diffusers

    class Given(diffusers.FlowMatchEulerDiscreteScheduler):
        def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
            super().set_timesteps(device=device, sigmas=list(sigmas))

    return Given(shift=1.0)


def unipc(shift: float) -> Any:
    """As scheduler/ of the published folders has it."""
    import diffusers

    return diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, num_train_timesteps=1000
    )


def pipeline_of(folder: Path, scheduler: Any, *, shows_image: bool) -> Any:
    import diffusers
    from transformers import CLIPImageProcessorPil, CLIPVisionModel

    parts: dict[str, Any] = {
        "transformer": diffusers.WanTransformer3DModel.from_pretrained(folder / "transformer").eval(),
        "vae": diffusers.AutoencoderKLWan.from_pretrained(folder / "vae").eval(),
        "scheduler": scheduler,
    }
    if not shows_image:
        return diffusers.WanPipeline(**parts, tokenizer=None, text_encoder=None)
    if (folder / "image_encoder").is_dir():
        parts["image_encoder"] = CLIPVisionModel.from_pretrained(folder / "image_encoder")
        parts["image_processor"] = CLIPImageProcessorPil.from_pretrained(folder / "image_processor")
    else:
        parts["expand_timesteps"] = True  # as model_index.json of Wan 2.2 TI2V has it
    return diffusers.WanImageToVideoPipeline(**parts, tokenizer=None, text_encoder=None)


@pytest.mark.parametrize("sampler", ["euler", "unipc"])
@pytest.mark.parametrize("name, shown", [("t2v", 0), ("i2v", 1), ("ti2v", 0), ("ti2v", 1), ("flf2v", 2)])
@torch.no_grad()
def test_latents_are_those_of_diffusers_pipeline(
    folders: dict[str, Path], name: str, shown: int, sampler: str, picture: np.ndarray, last_picture: np.ndarray
):
    """Euler's levels are given to both; UniPC's, in whole thousandths, are those that the pipeline makes by itself."""
    folder, pictures = folders[name], [picture, last_picture][:shown]
    texts = torch.randn(512, TEXT), torch.randn(512, TEXT)
    made, sigmas = ours(folder, pictures, texts, sampler=sampler)
    scheduler = euler(sigmas) if sampler == "euler" else unipc(release_of(str(folder)).low_shift)
    pipeline = pipeline_of(folder, scheduler, shows_image=bool(shown))
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        **dict(zip(("image", "last_image"), map(Image.fromarray, pictures))),
        prompt_embeds=texts[0][None],
        negative_prompt_embeds=texts[1][None],
        height=HEIGHT,
        width=WIDTH,
        num_frames=1 + 4 * (FRAMES - 1),
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        latents=frame_noise(made.shape, seed=SEED, frame=0, step=0).transpose(1, 2),
        output_type="latent",
    ).frames.transpose(1, 2)
    assert len(sigmas) == STEPS and expected.std() > 0.3
    torch.testing.assert_close(made, expected, rtol=0, atol=FP32)


@pytest.mark.parametrize("sampler", ["euler", "unipc"])
@torch.no_grad()
def test_an_edit_by_vace_is_that_of_diffusers_pipeline(folders: dict[str, Path], sampler: str):
    import diffusers

    folder, rng = folders["vace"], np.random.default_rng(0)
    film, drawn = rng.integers(0, 256, (5, HEIGHT, WIDTH, 3), np.uint8), rng.random((5, HEIGHT, WIDTH)) < 0.3
    request, texts = asked(folder, sampler=sampler), (torch.randn(512, TEXT), torch.randn(512, TEXT))
    contract = contract_of(request, release_of(request.artifact))
    model = load_published(request, contract, device=CPU)
    model = dataclasses.replace(model, guided=Guided(Guidance(text=SCALE), {"text": texts[1]}))
    made = sample_clip(model, with_control(clip_of(model, texts[0], [], None), model, film, drawn), seed=SEED)
    pipeline = diffusers.WanVACEPipeline(
        transformer=diffusers.WanVACETransformer3DModel.from_pretrained(folder / "transformer").eval(),
        vae=diffusers.AutoencoderKLWan.from_pretrained(folder / "vae").eval(),
        scheduler=euler(contract.sigmas) if sampler == "euler" else unipc(VACE.shift),
        tokenizer=None,
        text_encoder=None,
    )
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        video=[Image.fromarray(picture) for picture in film],
        mask=[Image.fromarray(np.uint8(255 * mask)) for mask in drawn],
        prompt_embeds=texts[0][None],
        negative_prompt_embeds=texts[1][None],
        height=HEIGHT,
        width=WIDTH,
        num_frames=5,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        latents=frame_noise(made.shape, seed=SEED, frame=0, step=0).transpose(1, 2),
        output_type="latent",
    ).frames.transpose(1, 2)
    assert expected.std() > 0.3
    torch.testing.assert_close(made, expected, rtol=0, atol=FP32)


def test_a_clean_first_frame_is_the_image(folders: dict[str, Path], picture: np.ndarray):
    made, _ = ours(folders["ti2v"], [picture], (torch.randn(4, TEXT), torch.randn(4, TEXT)))
    shown = torch.from_numpy(picture).permute(2, 0, 1)[None, None].float() / 127.5 - 1
    assert torch.equal(made[:, :1], load_wan_vae(folders["ti2v"]).encode_pixels(shown))


@torch.no_grad()
def test_the_command_writes_the_clip_of_its_prompt_and_the_middle_of_its_image(
    folders: dict[str, Path], picture: np.ndarray, tmp_path: Path
):
    folder, out = folders["i2v"], tmp_path / "clip.mp4"
    wide = np.concatenate([picture[:, :32], picture, picture[:, 32:]], axis=1)  # 32x128: the middle is all of `picture`
    Image.fromarray(wide).save(tmp_path / "wide.png")
    words = {"prompt": "a woman smiles", "negative_prompt": "talks", "image": str(tmp_path / "wide.png")}
    generate(asked(folder, out=str(out), **words))
    texts = [UMT5(str(folder))(text).half().float() for text in ("a woman smiles", "talks")]
    latents, _ = ours(folder, [picture], (texts[0], texts[1]))
    write_video(tmp_path / "expected.mp4", to_uint8(load_wan_vae(folder).decode_pixels(latents)[0][0]), None, fps=16)
    frames, fps = read_video(out)
    assert fps == 16 and len(frames) == 5  # 1 + 4 k, of three that were asked for
    assert np.abs(frames.astype(int) - read_video(tmp_path / "expected.mp4")[0]).mean() < 0.5


@torch.no_grad()
def test_the_command_goes_from_the_first_picture_to_the_last(
    folders: dict[str, Path], picture: np.ndarray, last_picture: np.ndarray, tmp_path: Path
):
    folder, out = folders["flf2v"], tmp_path / "clip.mp4"
    for name, shown in (("a", picture), ("b", last_picture)):
        Image.fromarray(shown).save(tmp_path / f"{name}.png")
    a, b = (str(tmp_path / f"{name}.png") for name in "ab")
    words = {"prompt": "a woman smiles", "negative_prompt": "talks", "seconds": 5 / 16}
    films = []
    for shown in ({"keyframes": [f"{b}@0.3125", f"{a}@0"]}, {"image": a, "keyframes": [f"{b}@0.26"]}):
        generate(asked(folder, out=str(out), **(words | shown)))
        films.append(read_video(out)[0])
    assert np.array_equal(*films)
    texts = [UMT5(str(folder))(text).half().float() for text in ("a woman smiles", "talks")]
    latents, _ = ours(folder, [picture, last_picture], (texts[0], texts[1]))
    write_video(tmp_path / "expected.mp4", to_uint8(load_wan_vae(folder).decode_pixels(latents)[0][0]), None, fps=16)
    assert np.abs(films[0].astype(int) - read_video(tmp_path / "expected.mp4")[0]).mean() < 0.5


@pytest.mark.parametrize(("tile", "differ"), [(64, False), (32, True)])
def test_large_frames_are_decoded_in_tiles(folders: dict[str, Path], tmp_path: Path, tile: int, differ: bool):
    """A frame of 32x64 px is two tiles of 32, which the decoder's attention sees one at a time, or one of 64."""
    made = []
    for name, size in (("whole", None), ("tiled", tile)):
        out = tmp_path / f"{name}.mp4"
        generate(asked(folders["t2v"], out=str(out), prompt="a woman smiles", tile=size))
        made.append(read_video(out)[0].astype(int))
    error = np.abs(made[0] - made[1]).mean()
    assert made[0].std() > 5 and (error > 0) == differ and error < 0.5 * made[0].std()


@pytest.mark.parametrize(("tile", "rule"), [(20, "tile=20 must be a multiple of 8 px"), (0, "tile=0 must be a whole")])
def test_tiles_that_cannot_be_are_refused_before_the_model_is_loaded(
    folders: dict[str, Path], tile: int, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("serve.published_clip.load_published", None)
    with pytest.raises(ValueError, match=rule):
        generate(asked(folders["t2v"], out=str(tmp_path / "clip.mp4"), prompt="a woman smiles", tile=tile))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"tile=64 must be left out: weights/world is no published model"):
        ClipRequest(artifact="weights/world", out="clip.mp4", tile=64).check_own_size()


def test_a_clip_that_does_not_fit_into_memory_is_refused_before_it_is_sampled(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("serve.memory.host_bytes", lambda: 10_000)
    rule = r"a clip of 5 pictures of 32x64 px need at least \d+ bytes, 10000 are free on cpu\. Lower seconds"
    with pytest.raises(RuntimeError, match=rule):
        generate(asked(folders["t2v"], out=str(tmp_path / "clip.mp4"), prompt="a woman smiles"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "release"), [("t2v", T2V), ("i2v", I2V), ("ti2v", TI2V), ("flf2v", FLF2V), ("vace", VACE)]
)
def test_a_folder_is_sampled_as_its_publishers_do(folders: dict[str, Path], name: str, release: Any):
    assert release_of(str(folders[name])) is release


def test_numbers_that_are_not_given_are_the_publishers(folders: dict[str, Path]):
    """Wan 2.1 I2V at 480x832: 40 steps shifted by 3, 81 frames; at 720p: by 5."""
    alone = {"resolution": None, "seconds": None, "steps": None}
    small = contract_of(asked(folders["i2v"], **alone), I2V)
    large = contract_of(asked(folders["i2v"], **(alone | {"resolution": "720x1280"})), I2V)
    assert (str(small.resolution), small.horizon_frames, len(small.sigmas)) == ("480x832", 20, 40)
    half = (1 + 1 / 1000) / 2  # UniPC's levels end before 0
    assert small.sigmas[20] == pytest.approx(3 * half / (1 + 2 * half))
    assert large.sigmas[20] == pytest.approx(5 * half / (1 + 4 * half))
    assert small.solver == "unipc" and contract_of(asked(folders["i2v"], sampler="euler"), I2V).solver == "ode"
    assert contract_of(asked(folders["ti2v"], **alone), TI2V).horizon_frames == 30


@pytest.mark.parametrize(
    ("name", "settings", "rule"),
    [
        ("t2v", {}, r"prompt=\.\.\. must be given"),
        ("t2v", {"prompt": "a", "image": "f.png"}, r"image=f\.png must be left out: .* of a text alone"),
        ("i2v", {"prompt": "a"}, r"image=\.\.\. must be given: .* is an image-to-video model"),
        ("ti2v", {"prompt": "a", "audio": "a.wav"}, r"audio=a\.wav must be left out: .* of a text and an image alone"),
        ("ti2v", {"prompt": "a", "whole": True}, "whole=true must be false"),
        ("flf2v", {"prompt": "a", "image": "a.png"}, r"must be the first and the last picture of the clip"),
        (
            "flf2v",
            {"prompt": "a", "keyframes": ["a.png@0", "b.png@0.1"]},
            r"such as keyframes=\[A.png@0,B.png@0.1875\]",
        ),
        ("flf2v", {"prompt": "a", "keyframes": ["a@0", "b@0.1", "c@0.19"]}, r"with both, and with no other"),
        ("flf2v", {"prompt": "a", "seconds": 0.01, "keyframes": ["a@0"]}, r"keyframes=\[A.png@0,B.png@0.125\]"),
        (
            "i2v",
            {"prompt": "a", "keyframes": ["a.png@0"]},
            r"keyframes=.* must be left out: .* was not trained with it",
        ),
        ("t2v", {"prompt": "a", "resolution": "30x48"}, "resolution=30x48 must have .* multiples of .* = 16"),
        ("t2v", {"prompt": "a", "guidance": 1, "negative_prompt": "s"}, "negative_prompt=... must be left out"),
    ],
)
def test_what_a_published_model_does_not_take_is_refused_by_name(
    folders: dict[str, Path], name: str, settings: dict[str, Any], rule: str, tmp_path: Path
):
    with pytest.raises(ValueError, match=rule):
        generate(asked(folders[name], out=str(tmp_path / "clip.mp4"), **settings))


def test_two_transformers_are_refused(folders: dict[str, Path], tmp_path: Path):
    for part, source in (("transformer", "t2v"), ("transformer_2", "t2v"), ("vae", "t2v")):
        (tmp_path / part).symlink_to(folders[source] / part.removesuffix("_2"))
    with pytest.raises(ValueError, match=r"must have one transformer, .* Wan 2\.2 A14B"):
        release_of(str(tmp_path))


def test_a_resolution_for_a_model_that_has_its_own_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="resolution=64 must be left out: A has the resolution of its training"):
        generate(ClipRequest(artifact="A", out=str(tmp_path / "clip.mp4"), resolution=64))
