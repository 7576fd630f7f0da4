"""What Wan 2.1's image-to-video models get of the reference image: channels beside the latents, and tokens of CLIP (by
transformers)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from gwm.files.tensors import read_json
from gwm.wan.files import folder_digest
from gwm.wan.pretrained import load_encoder
from gwm.wan.vae import WanVAE

KINDS = ("clip", "clip_vision_model")
MASK_CHANNELS = 4  # one for each pixel frame of a latent frame: 1 where it is given


@torch.no_grad()
def image_channels(
    vae: WanVAE, image: Float[Tensor, "b 3 h w"], num_frames: int
) -> tuple[Float[Tensor, "b 1 g _ _"], Float[Tensor, "b f g _ _"]]:
    """Mask and latents of a clip that shows the image and then nothing: of its own frame, and of `num_frames` latent
    frames after it."""
    nothing = image.new_zeros(len(image), num_frames * vae.config.temporal_stride, *image.shape[1:])
    own, after = vae.encode_pixels(image[:, None]), vae.encode_pixels(torch.cat([image[:, None], nothing], 1))[:, 1:]
    return _behind_mask(own, given=True), _behind_mask(after, given=False)


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
