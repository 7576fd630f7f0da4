"""Wan's encoders of text (umT5) and of the reference image (CLIP), which transformers builds: from a caption and from a
picture to tokens that the DiT attends to; and the channels that image-to-video models get beside latents.

Files are checked before they are read, tensors after.
"""

import html
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from gwm.files.tensors import DOWNLOAD, check_file, check_finite, read_json
from gwm.optional import optional_module
from gwm.wan.files import component, folder_digest
from gwm.wan.vae import WanVAE

COMMAND = "pip install 'gwm[wan]'"


def check_part(folder: Path) -> None:
    """Refuse a part of a pipeline in which a file is empty, truncated, a git-LFS pointer or a web page.

    Raises:
        FileNotFoundError, ValueError: as `check_file`.
    """
    for path in sorted(file for file in folder.glob("*") if file.is_file() and not file.name.startswith(".")):
        check_file(path)


def load_encoder(name: str, folder: Path, *, kinds: tuple[str, ...], dtype: torch.dtype | str) -> Any:
    """A frozen model in evaluation mode, of the class `name` of transformers.

    Args:
        kinds: what `model_type` in config.json may be.
        dtype: "auto": as the folder is stored.

    Raises:
        FileNotFoundError, ValueError: the folder holds another model, a damaged file, too few tensors, or values that
            are not finite.
    """
    transformers = optional_module("transformers", COMMAND)
    check_part(folder)
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in kinds:
        raise ValueError(
            f"{folder}/config.json has model_type={kind!r}, must be one of {list(kinds)}: it is another model's "
            "encoder. Take the folder of a -Diffusers release of Wan."
        )
    model, report = getattr(transformers, name).from_pretrained(folder, dtype=dtype, output_loading_info=True)
    missing = sorted(str(key) for key in report["missing_keys"])
    if missing:  # transformers would draw them at random
        raise ValueError(f"{folder} lacks {len(missing)} tensors of {name}, such as {missing[0]}. {DOWNLOAD}")
    check_finite(model.state_dict(), source=str(folder))
    return model.eval().requires_grad_(False)


MAX_TOKENS = 512  # as in training; what follows of a longer caption is not seen
CLEANING = "ftfy"  # part of the encoder's name: captions that were encoded with another cleaning are encoded again


class UMT5:
    """Reads `tokenizer/` and `text_encoder/` of a diffusers pipeline at the first call. A pickled encoder has no
    weights."""

    def __init__(self, folder: str, *, device: str = "cpu") -> None:
        """Check that the text encoder is there; its weights are loaded at the first call.

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
        self.name = "-".join(["umt5", CLEANING, *map(folder_digest, parts)])
        self._loaded: tuple[Any, Any] | None = None

    @torch.no_grad()
    def __call__(self, caption: str) -> Float[Tensor, "s t"]:
        """Tokens of a caption, 512 at most; an empty caption has only the end token."""
        tokenizer, model = self._loaded = self._loaded or self._load()
        tokens = tokenizer(prompt_clean(caption), max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
        tokens = tokens.to(self.device)
        return model(tokens.input_ids, tokens.attention_mask).last_hidden_state[0].float().cpu()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": None}

    def _load(self) -> tuple[Any, Any]:
        check_part(self.folder / "tokenizer")
        transformers = optional_module("transformers", COMMAND)
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder / "tokenizer")
        model = load_encoder("UMT5EncoderModel", self.folder / "text_encoder", kinds=("umt5",), dtype="auto")
        return tokenizer, model.to(self.device)


def prompt_clean(caption: str) -> str:
    """The caption as Wan's tokenizer is given it: damaged encodings, typographic quotes, ligatures and full-width
    letters made plain by ftfy, HTML entities resolved twice, white space single.

    Source: Wan2.1 wan/modules/tokenizers.py, basic_clean and whitespace_clean; diffusers' `prompt_clean`.

    Raises:
        MissingPackageError: ftfy is not installed. diffusers would leave it out and make other tokens.
    """
    fixed = optional_module("ftfy", COMMAND).fix_text(caption)
    return " ".join(html.unescape(html.unescape(fixed)).split())


KINDS = ("clip", "clip_vision_model")
MASK_CHANNELS = 4  # one for each pixel frame of a latent frame: 1 where it is given


@torch.no_grad()
def image_channels(
    vae: WanVAE, image: Float[Tensor, "b 3 h w"], num_frames: int, last: Float[Tensor, "b 3 h w"] | None = None
) -> tuple[Float[Tensor, "b 1 g _ _"], Float[Tensor, "b f g _ _"]]:
    """Mask and latents of a clip that shows the image and then nothing, but for the `last` picture where it is given:
    of its own frame, and of `num_frames` latent frames after it."""
    rest = image.new_zeros(len(image), num_frames * vae.config.temporal_stride, *image.shape[1:])
    if last is not None:
        rest[:, -1] = last
    own, after = vae.encode_pixels(image[:, None]), vae.encode_pixels(torch.cat([image[:, None], rest], 1))[:, 1:]
    after = _behind_mask(after, given=False)
    if last is not None:
        after[:, -1, MASK_CHANNELS - 1] = 1
    return _behind_mask(own, given=True), after


@torch.no_grad()
def control_channels(
    vae: WanVAE, pixel_frames: Float[Tensor, "b t 3 h w"], drawn: Bool[Tensor, "b t h w"]
) -> Float[Tensor, "b f g _ _"]:
    """VACE's channels of a film: latents of what is kept, latents of what is to be drawn anew, each grey elsewhere, and
    the mask, of whose px each latent cell has all 8 x 8.

    Source: Jiang et al. 2025, arXiv:2503.07598, Sec. 3.2; diffusers' `WanVACEPipeline`.
    """
    there, side = drawn[:, :, None], vae.config.spatial_stride
    kept, changed = (vae.encode_pixels(pixel_frames * part) for part in (~there, there))
    mask = rearrange(drawn.to(kept), "b t (h i) (w j) -> b (i j) t h w", i=side, j=side)
    mask = F.interpolate(mask, size=(kept.shape[1], *mask.shape[3:]), mode="nearest-exact")
    return torch.cat([kept, changed, mask.transpose(1, 2)], dim=2)


def _behind_mask(latents: Float[Tensor, "b f c h w"], *, given: bool) -> Float[Tensor, "b f g h w"]:
    b, f, _, h, w = latents.shape
    return torch.cat([latents.new_full((b, f, MASK_CHANNELS, h, w), float(given)), latents], dim=2)


class CLIPImage:
    """Reads `image_processor/` and `image_encoder/` of a diffusers pipeline at the first call. A pickled encoder has no
    weights."""

    def __init__(self, folder: str, *, device: str = "cpu") -> None:
        """Check that the image encoder is there; its weights are loaded at the first call.

        Raises:
            FileNotFoundError: the folder has no image encoder.
        """
        self.folder, self.device = Path(folder), device
        self._settings = self.folder / "image_processor" / "preprocessor_config.json"
        for path in (self.folder / "image_encoder" / "config.json", self._settings):
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path} must exist, as in a diffusers pipeline: Wan 2.1 I2V attends to tokens of CLIP. Copy "
                    "image_encoder/ and image_processor/ of the -Diffusers release there, or name their folder with "
                    "image.folder=."
                )
        parts = self.folder / "image_encoder", self._settings.parent
        self.name = "-".join(["clip", *map(folder_digest, parts)])
        self._loaded: Any = None

    @torch.no_grad()
    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "j i"]:
        """Hidden states before the last layer of the picture's middle square: 257 tokens in the published model."""
        self._loaded = self._loaded or self._load()
        return self._loaded(self._pixels(image).to(self.device), output_hidden_states=True).hidden_states[-2][0].cpu()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": None}

    def _load(self) -> Any:
        folder = self.folder / "image_encoder"
        return load_encoder("CLIPVisionModel", folder, kinds=KINDS, dtype=torch.float32).to(self.device)

    def _pixels(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "1 3 s s"]:
        """As the pipeline's processor does; transformers' own needs torchvision in some versions."""
        settings = read_json(self._settings)
        side = settings["crop_size"]["height"]
        short = min(image.shape[:2])
        rows, columns = (side * px // short for px in image.shape[:2])
        small = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BICUBIC), np.float32) / 255
        top, left = (rows - side) // 2, (columns - side) // 2
        square = small[top : top + side, left : left + side]
        normal = (square - np.float32(settings["image_mean"])) / np.float32(settings["image_std"])
        return torch.from_numpy(normal).permute(2, 0, 1)[None]
