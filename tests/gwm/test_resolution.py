import json
import math
from dataclasses import asdict

import pytest

from gwm.resolution import Resolution


@pytest.mark.parametrize(
    ("value", "expected"),
    [("480x832", (480, 832)), (128, (128, 128)), ("128", (128, 128)), ({"height": 832, "width": 480}, (832, 480))],
)
def test_height_comes_first_and_one_number_is_a_square(value: object, expected: tuple[int, int]):
    assert Resolution.parse(value).shape == expected


def test_what_is_written_is_read_again():
    portrait = Resolution(832, 480)
    assert Resolution.parse(str(portrait)) == Resolution.parse(json.loads(json.dumps(asdict(portrait)))) == portrait


@pytest.mark.parametrize("value", ["480*832", "480x", "x480", "480x832x3", "-1", "1.5", None, "4 x 8", {"height": 8}])
def test_anything_else_is_refused_with_two_examples(value: object):
    with pytest.raises(ValueError, match=r"must be height x width in pixels, as 480x832, or one number .* as 128"):
        Resolution.parse(value)


def test_nothing_is_no_size():
    with pytest.raises(ValueError, match="resolution=0x16 must have a height and a width of at least 1 px"):
        Resolution.parse("0x16")


@pytest.mark.parametrize(
    ("size", "patches"), [("480x832", 1560), ("704x1280", 3520), ("720x1280", 3600), ("832x480", 1560)]
)
def test_published_sizes_have_the_published_number_of_patches(size: str, patches: int):
    """Wan 2.1 has 1560 tokens per latent frame at 480x832, 3600 at 720x1280."""
    resolution = Resolution.parse(size)
    resolution.check_multiple(16, of="VAE stride * patch")
    assert math.prod(resolution.cells(16)) == patches


@pytest.mark.parametrize(
    ("value", "multiple", "nearest"),
    [
        ("720x1280", 32, "704x1280 or 736x1280"),
        ("500x850", 16, "496x848 or 496x864 or 512x848 or 512x864"),
        (40, 16, "32x32 or 48x48"),
        ("8x32", 16, "16x32"),
    ],
)
def test_the_nearest_allowed_sizes_are_named(value: object, multiple: int, nearest: str):
    with pytest.raises(ValueError, match=f"multiples of stride = {multiple}. Take {nearest}\\.$"):
        Resolution.parse(value).check_multiple(multiple, of="stride")
