"""A picture is shown as its author saw it, or refused with its name, what it is and what to do."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from gwm.media.images import read_image, to_rgb


def test_transparency_is_in_front_of_grey(tmp_path: Path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0] = (200, 100, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = np.asarray(read_image(tmp_path / "a.png"))
    assert (found[0] == (200, 100, 0)).all() and (found[1] == 128).all()


def test_transparent_palette_colour_is_grey(tmp_path: Path):
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.gif", transparency=1)
    assert np.asarray(read_image(tmp_path / "a.gif")).tolist() == [[[200, 0, 0], [128, 128, 128]]]


def test_sixteen_bits_keep_their_range(tmp_path: Path):
    Image.fromarray(np.array([[0, 32896, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png"))[..., 0].tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str):
    """A white image stays white."""
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("RGB", (8, 8), "white").convert(mode).save(path)
    found = read_image(path)
    assert found.mode == "RGB" and np.asarray(found).min() > 250


def test_exif_orientation_is_applied_to_a_wide_photograph(tmp_path: Path):
    """Orientation 6: the camera was turned, the first row of the file is the right edge of the scene."""
    stored = Image.new("RGB", (4200, 60), "black")
    stored.paste("white", (0, 0, 4200, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "a.jpg", exif=exif)
    found = np.asarray(read_image(tmp_path / "a.jpg"))
    assert found.shape == (4200, 60, 3) and found[:, 35:].min() > 200 and found[:, :25].max() < 50


def test_truncated_image_is_refused(tmp_path: Path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"a\.png must be an image"):
        read_image(path)


def swapped_profile() -> bytes:
    """The sRGB profile, in which red and blue are exchanged: no one could take it for sRGB."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return data.replace(b"rXYZ", b"tmpX", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"tmpX", b"bXYZ", 1)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_the_colour_profile_of_a_picture_is_applied(tmp_path: Path, mode: str):
    picture = Image.new("RGB", (8, 8), (200, 100, 30))
    picture = picture.quantize(2) if mode == "P" else picture.convert(mode)
    picture.save(tmp_path / "a.png", icc_profile=swapped_profile())
    red, green, blue = np.asarray(read_image(tmp_path / "a.png"))[4, 4].astype(int)
    assert abs(red - 30) < 8 and abs(green - 100) < 8 and abs(blue - 200) < 8


def test_a_broken_profile_is_said_and_not_fatal(tmp_path: Path, caplog):
    Image.new("RGB", (8, 8), (200, 100, 30)).save(tmp_path / "a.png", icc_profile=b"no profile" * 20)
    assert np.asarray(read_image(tmp_path / "a.png"))[0, 0].tolist() == [200, 100, 30]
    assert "taken for sRGB" in caplog.text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.float32([[0, 0.5, 1.0]]), [0, 128, 255]),
        (np.float32([[0, 100, 255]]), [0, 100, 255]),
        (np.float32([[0, 25700, 65535]]), [0, 100, 255]),
        (np.int32([[0, 100, 255]]), [0, 100, 255]),
        (np.int32([[0, 25700, 65535]]), [0, 100, 255]),
        (np.int32([[0, 842150450, 2147483647]]), [0, 100, 255]),
        (np.uint16([[0, 257, 514]]), [0, 1, 2]),  # dark, not 8 bits
    ],
)
def test_depths_of_grey_pictures_are_scaled_by_their_range(tmp_path: Path, values: np.ndarray, expected: list[int]):
    """Pillow's own conversion cuts at 255 or truncates to 0: a picture of 0 to 1 would be black."""
    Image.fromarray(values).save(tmp_path / "a.tiff")
    assert np.asarray(read_image(tmp_path / "a.tiff"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_numbers_that_are_no_picture_are_refused(tmp_path: Path, value: float):
    Image.fromarray(np.float32([[0.5, value]])).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=r"a\.tiff: .*8-bit PNG"):
        read_image(tmp_path / "a.tiff")


@pytest.mark.parametrize(("suffix", "count"), [("gif", 2), ("webp", 2), ("png", 2), ("gif", 1)])
def test_of_an_animation_the_first_picture_is_used_and_it_is_said(tmp_path: Path, caplog, suffix: str, count: int):
    first, second = Image.new("RGB", (8, 8), (250, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 250))
    path = tmp_path / f"a.{suffix}"
    first.save(path, save_all=True, append_images=[second][: count - 1])
    assert np.asarray(read_image(path))[0, 0].astype(int) == pytest.approx([250, 0, 0], abs=12)
    assert ("first one is used" in caplog.text) == (count > 1)


def test_heic_is_named_with_the_way_to_jpeg(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(struct.pack(">I", 24) + b"ftypheic" + bytes(400))
    with pytest.raises(ValueError, match=r"a\.jpg must be an image .* HEIC photograph: save it as JPEG .*heif-convert"):
        read_image(tmp_path / "a.jpg")


def png_of(width: int, height: int) -> bytes:
    """A tiny file that declares a large picture."""
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path):
    for width, reason in (
        (40_000, "must be an image .*exceeds limit"),
        (10_000, "10000 x 10000 pixels, must"),
    ):
        (tmp_path / "a.png").write_bytes(png_of(width, width))
        with pytest.raises(ValueError, match=rf"a\.png.*{reason}"):
            read_image(tmp_path / "a.png")


def test_postscript_is_not_executed(tmp_path: Path):
    """Pillow would hand an EPS file to Ghostscript."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png must be an image"):
        read_image(tmp_path / "a.png")


@pytest.mark.filterwarnings("ignore")  # Pillow warns of every odd tag
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "gif", "bmp", "avif", "jp2", "ico", "tga"])
def test_damaged_pictures_are_read_or_refused_by_name(tmp_path: Path, suffix: str):
    """Whatever a bit error or a cut makes of a file: never another error than a sentence with the name."""
    rng = np.random.default_rng(0)
    whole = io.BytesIO()
    noise = Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8))
    noise.save(whole, Image.registered_extensions()[f".{suffix}"])
    for trial in range(30):
        data = bytearray(whole.getvalue())
        for place in rng.integers(0, min(len(data), 300), 3):
            data[place] = rng.integers(256)
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(data[: len(data) * 2 // 3] if trial % 3 == 0 else data)
        try:
            assert read_image(path).mode == "RGB"
        except ValueError as error:
            assert str(path) in str(error)


def test_grey_with_alpha_is_in_front_of_grey():
    picture = Image.new("LA", (2, 1), (250, 0))
    picture.putpixel((1, 0), (250, 255))
    assert np.asarray(to_rgb(picture))[0].tolist() == [[128] * 3, [250] * 3]


def test_transparent_pixels_become_grey():
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    picture.putpixel((1, 0), (255, 0, 0, 255))
    assert np.asarray(to_rgb(picture)).tolist() == [[[128, 128, 128], [255, 0, 0]]]
