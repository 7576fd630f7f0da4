"""Still pictures of any kind as upright sRGB: profiles, orientation, transparency and depth are applied."""

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from gwm.files.checks import check_file, seen_kind

log = logging.getLogger(__name__)

BACKGROUND = (128, 128, 128)  # behind what is transparent: neutral, as far from black hair as from white
MAX_PIXELS = 89_000_000  # a small file can declare an enormous picture
# Not all that Pillow knows: for EPS it runs Ghostscript, which executes what the file says.
FORMATS = (
    "PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "JPEG2000", "ICO", "TGA", "PPM", "QOI", "SGI", "PCX",
)  # fmt: skip
PROFILED = ("RGB", "CMYK", "L", "LAB")  # modes that a colour profile can describe
# What Pillow raises for damaged files, besides OSError: each of these was seen with a real format.
DAMAGED = (
    UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, EOFError, KeyError, IndexError,
    RuntimeError,
)  # fmt: skip


def read_image(path: str | Path) -> Image.Image:
    """RGB image, upright as its EXIF orientation says, what is transparent in front of neutral grey.

    Of an animation it is the first picture.

    Raises:
        ValueError: the file is missing, not an image, damaged, or too large.
    """
    rule = "an image that Pillow reads, such as PNG or JPEG"
    check_file(path, rule)
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"it has {image.width} x {image.height} pixels, must have at most {MAX_PIXELS // 10**6} "
                    "million. Make it smaller."
                )
            if _is_animation(image):
                log.warning("%s holds several pictures: the first one is used", path)
            return to_rgb(image)
    except DAMAGED as error:
        raise ValueError(f"{path} must be {rule} ({error}).{seen_kind(path)} Save it again as one.") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture as sRGB, 8 bit: upright as EXIF says, its colour profile applied, transparency over grey.

    Raises:
        ValueError: its numbers are not finite, or below 0 or above the range of a picture.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image), sixteen=image.mode.startswith("I;16"))).convert("RGB")
    if not image.has_transparency_data:
        return _to_srgb(image)
    pixels = image.convert("RGBA")
    opaque = _to_srgb(_with_profile(pixels.convert("RGB"), image)).convert("RGBA")
    opaque.putalpha(pixels.getchannel("A"))
    backdrop = Image.new("RGBA", pixels.size, (*BACKGROUND, 255))
    return Image.alpha_composite(backdrop, opaque).convert("RGB")


def _is_animation(image: Image.Image) -> bool:
    """Whether a file holds several pictures; the previews that cameras add to JPEG do not count."""
    opened: Any = image  # only formats that may hold several have the attribute
    return image.format != "MPO" and hasattr(opened, "is_animated") and opened.is_animated


def _eight_bits(values: Num[np.ndarray, "h w"], *, sixteen: bool) -> np.ndarray:
    """Numbers of a grey picture as uint8. Full scale is that of the smallest range that holds all of them:
    1 (of floats), 255, 65535 or 2^31 - 1; that of 16 bits where the file says so."""
    if not np.isfinite(values).all():
        raise ValueError(
            f"{np.count_nonzero(~np.isfinite(values))} of {values.size} pixels are not finite numbers, none may be. "
            "Save it again as 8-bit PNG."
        )
    largest, smallest = float(values.max(initial=0)), float(values.min(initial=0))
    scales = (65535.0,) if sixteen else (1.0, 255.0, 65535.0, 2.0**31 - 1)
    scale = next((s for s in scales if largest <= s and (s > 1 or values.dtype.kind == "f")), None)
    if scale is None or smallest < 0:
        raise ValueError(
            f"its numbers lie in [{smallest:g}, {largest:g}], must lie in [0, 1], [0, 255] or [0, 65535] to be a "
            "picture. Save it again as 8-bit PNG."
        )
    return (values.astype(np.float64) * (255 / scale)).round().astype(np.uint8)


def _with_profile(pixels: Image.Image, source: Image.Image) -> Image.Image:
    if profile := source.info.get("icc_profile"):
        pixels.info["icc_profile"] = profile
    return pixels


def _to_srgb(image: Image.Image) -> Image.Image:
    """RGB, by the picture's own colour profile where it has a usable one; else its numbers are taken for sRGB."""
    profile = image.info.get("icc_profile")
    if image.mode == "P":
        image = _with_profile(image.convert("RGB"), image)
    if not profile or image.mode not in PROFILED:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        found = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        log.warning("the colour profile of the picture cannot be applied (%s): its numbers are taken for sRGB", error)
        return image.convert("RGB")
    assert found is not None, "a copy is made unless inPlace is asked for"
    return found
