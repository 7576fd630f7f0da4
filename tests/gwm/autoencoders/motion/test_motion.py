"""The motion autoencoder's promises, with random weights: rest is the portrait, a stream is the clip."""

import dataclasses

import numpy as np
import pytest
import torch

from data.actions import ACTION_NAMES
from gwm.autoencoders.motion.basis import FEATURES, RANK, FlowBasis, RidgeFit, features
from gwm.autoencoders.motion.canvas import Change, draw, draw_with_opencv, draw_with_tensors
from gwm.autoencoders.motion.code import (
    ACTIONS,
    GAZE,
    NAMES,
    POSE,
    SCALES,
    WIDTH,
    from_latents,
    mirror,
    physical,
    place,
    standardise,
    steadied,
    to_latents,
)
from gwm.autoencoders.motion.codec import MotionAutoencoder, person
from gwm.autoencoders.motion.paste import Square
from gwm.autoencoders.motion.warp import Window, background, places, places_in, whole
from gwm.autoencoders.motion.working_frames import animated, layers
from tests.gwm.autoencoders.kit import tiny_motion


@pytest.fixture(scope="module")
def codec() -> MotionAutoencoder:
    torch.manual_seed(0)
    return tiny_motion()


def portrait(side: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8))


def latents(frames: int, strength: float = 1.0) -> torch.Tensor:
    return strength * torch.randn(1, frames, 57, 2, 2, generator=torch.Generator().manual_seed(1))


def test_actions_are_those_of_the_data():
    assert NAMES[ACTIONS] == ACTION_NAMES


def test_latents_hold_four_frames_row_by_row():
    code = torch.arange(8 * 57).view(1, 8, 57).float()
    packed = to_latents(code)
    assert torch.equal(packed[0, 1, :, 1, 0], code[0, 6])
    assert torch.equal(from_latents(packed), code)
    with pytest.raises(ValueError, match="num_frames=7"):
        to_latents(code[:, :7])


def test_codes_are_their_parts_in_units_of_their_own():
    parts = torch.rand(3, 52), torch.rand(3, 3), torch.rand(3, 2)
    code = standardise(*parts)
    torch.testing.assert_close(physical(code), torch.cat(parts, 1))
    assert code[0, place("jawOpen")] == pytest.approx(float(parts[0][0, ACTION_NAMES.index("jawOpen")]) / 0.28)


def test_mirroring_twice_changes_nothing_and_once_exchanges_sides():
    order, signs = mirror()
    code = torch.randn(2, 57)
    once = code[:, order] * signs
    assert torch.equal(once[:, order] * signs, code)
    assert torch.equal(once[:, place("eyeBlinkLeft")], code[:, place("eyeBlinkRight")])
    assert torch.equal(once[:, place("yaw")], -code[:, place("yaw")])


def gazes(*x: float) -> torch.Tensor:
    """Codes of eyes that look sideways, in [-1, 1]."""
    code = torch.randn(1, len(x), WIDTH)
    code[..., GAZE] = 0
    code[..., place("gazeX")] = torch.tensor(x) / SCALES["gazeX"]
    return code


def test_eyes_hold_still_until_they_are_meant_far_away():
    code = gazes(0.0, 0.05, -0.07, 0.2, 0.25, 0.13, 0.1, 0.1)
    shown, last = steadied(code, torch.zeros(1, 5))
    want = torch.tensor([0.0, 0.0, 0.0, 0.2, 0.2, 0.2, 0.1, 0.1])
    torch.testing.assert_close(physical(shown)[0, :, place("gazeX")], want)
    torch.testing.assert_close(last[:, 3:], shown[:, -1, GAZE])
    assert torch.equal(shown[..., ACTIONS], code[..., ACTIONS])


def test_a_head_that_steps_from_chunk_to_chunk_glides_and_one_that_goes_on_is_left_alone():
    steps = torch.zeros(1, 8, WIDTH)
    steps[0, :, place("yaw")] = torch.tensor([0.0] * 4 + [1.0] * 4)
    shown, last = steadied(steps, torch.zeros(1, 5))
    torch.testing.assert_close(shown[0, :, place("yaw")], torch.tensor([0.0, 0, 0, 0, 0.25, 0.5, 0.75, 1]))
    torch.testing.assert_close(last[:, :3], shown[:, -1, POSE])
    steady = torch.zeros(1, 8, WIDTH)
    steady[0, :, place("pitch")] = 0.1 * torch.arange(1, 9)
    torch.testing.assert_close(steadied(steady, torch.zeros(1, 5))[0], steady)


def test_codes_in_parts_are_steadied_as_in_one():
    code, last, parts = torch.randn(2, 12, WIDTH), torch.zeros(2, 5), []
    for part in code.split(4, dim=1):
        shown, last = steadied(part, last)
        parts.append(shown)
    assert torch.equal(torch.cat(parts, dim=1), steadied(code, torch.zeros(2, 5))[0])


def test_the_ridge_finds_the_fields_that_made_the_flow():
    generator = torch.Generator().manual_seed(0)
    factors = (torch.randn(*shape, generator=generator) for shape in ((FEATURES, RANK), (RANK, 2 * 64 * 64)))
    truth = torch.matmul(*factors).view(FEATURES, 2, 64, 64) / RANK**0.5
    fit = RidgeFit()
    code = torch.randn(1000, 57, generator=generator)
    fit.add(code, (features(code) @ truth.flatten(1)).view(-1, 2, 64, 64))
    basis = FlowBasis()
    basis.set(fit.solve())
    unseen = torch.randn(20, 57, generator=generator)
    flow = basis(unseen, torch.ones(20, FEATURES))
    expected = (features(unseen) @ truth.flatten(1)).view_as(flow)
    assert (flow - expected).square().mean() < 1e-3 * expected.square().mean()


@pytest.mark.parametrize("side", [64, 250, 333, 720])
@pytest.mark.parametrize("paint", [draw_with_opencv, draw_with_tensors])
def test_at_rest_the_portrait_comes_back_to_the_bit(codec: MotionAutoencoder, side: int, paint):
    margin = codec.config.margin(side)
    wide = portrait(side + 2 * margin)
    for known, image in ((0, wide[margin : margin + side, margin : margin + side]), (margin, wide)):
        reference = codec.encode_reference(image[None], margin=known)
        assert not reference.latent.any()
        features, canvas = person(codec.begin(reference), 0)
        (picture, *_) = paint(canvas, codec.change(torch.zeros(4, 57), features))
        assert torch.equal(picture, wide[margin : margin + side, margin : margin + side])


@pytest.mark.parametrize("paint", [draw_with_opencv, draw_with_tensors])
def test_what_lies_around_the_portrait_comes_into_view(codec: MotionAutoencoder, paint):
    """All moves down by 8 cells, 12 px: the rows above the portrait are shown."""
    wide = portrait(96 + 48)
    _, canvas = person(codec.begin(codec.encode_reference(wide[None], margin=24)), 0)
    canvas = dataclasses.replace(canvas, share=torch.full_like(canvas.share, 255))
    flow = torch.zeros(1, 2, 64, 64)
    flow[:, 1] = -8
    still = torch.zeros(1, 4, 256, 256)
    moved = paint(canvas, Change(flow, still[:, :3], still[:, 3:]))
    assert torch.equal(moved[0], wide[12:108, 24:120])


def test_a_margin_of_another_width_is_refused(codec: MotionAutoencoder):
    with pytest.raises(ValueError, match="margin=10 must be 0 or 24 px for a portrait of 96 px"):
        codec.encode_reference(portrait(116)[None], margin=10)


def test_opencv_and_tensors_draw_the_same(codec: MotionAutoencoder):
    """To the rounding of places to 1/32 px, on a smooth picture."""
    y, x = np.mgrid[0:300, 0:300] / 300
    smooth = torch.from_numpy((127 + 100 * np.stack([np.sin(5 * x), np.cos(4 * y), x * y], -1)).astype(np.uint8))
    memory = codec.begin(codec.encode_reference(smooth[None]))
    features, canvas = person(memory, 0)
    change = codec.change(from_latents(latents(1, 0.3))[0], features)
    first, second = (paint(canvas, change).int() for paint in (draw_with_opencv, draw_with_tensors))
    assert (first - smooth).abs().float().mean() > 3
    assert (first - second).abs().float().mean() < 0.5


def test_training_sees_what_is_drawn(codec: MotionAutoencoder):
    """The differentiable picture at 256 px and the canvas of that size agree."""
    y, x = np.mgrid[0:256, 0:256] / 256
    smooth = torch.from_numpy((127 + 100 * np.stack([np.sin(5 * x), np.cos(4 * y), x * y], -1)).astype(np.uint8))
    memory, code = codec.begin(codec.encode_reference(smooth[None])), from_latents(latents(1, 0.3))[0]
    features, canvas = person(memory, 0)
    known, decoder = features.repeated(4), codec.decoder
    with torch.no_grad():
        coarse = decoder.coarse(code, known)
        _, trained, _ = animated(decoder, code, coarse, known, layers(known), whole(4))
    drawn = draw(canvas, codec.change(code, features)).permute(0, 3, 1, 2) / 127.5 - 1
    inner = (..., slice(12, -12), slice(12, -12))  # convolutions see other borders
    assert (trained.clamp(-1, 1) - drawn)[inner].abs().mean() < 0.02


def test_a_window_of_places_is_cut_from_all_of_them():
    flow = torch.randn(3, 2, 64, 64)
    window = Window(torch.tensor([[0, 0], [10, 5], [40, 40]]), 24, 24)
    for side in (64, 128, 256):
        expected = window.cut(places(flow, side).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        torch.testing.assert_close(places_in(flow, side, window), expected, rtol=0, atol=1e-6)


def test_the_background_is_kept_and_filled_from_around():
    image = torch.zeros(1, 3, 96, 96)
    image[:, 0] = torch.linspace(-1, 1, 96)[None, None, :]
    share = torch.zeros(1, 1, 96, 96)
    share[..., 26:64, 26:64] = 0.6  # a soft edge, in which nothing may change either
    share[..., 30:60, 30:60] = 1
    person = torch.where(share == 1, torch.ones_like(image), image)
    filled = background(person, share)
    assert torch.equal(filled[share.expand_as(filled) < 1], person[share.expand_as(person) < 1])
    assert (filled - image)[share.expand_as(image) == 1].abs().max() < 0.35


def test_a_square_that_is_pasted_back_leaves_no_seam(codec: MotionAutoencoder):
    """The whole picture outside the square, and the square's own border, stay to the bit; its middle moves."""
    picture = portrait(300).numpy()[:200]
    square = Square(left=20, top=70, side=160).with_margin(40)
    cut = square.cut(picture)
    reference = codec.encode_reference(torch.from_numpy(cut.copy())[None], margin=40, pasted=True)
    frame = codec.decode(latents(1), codec.begin(reference))[0][0, 1].numpy()
    pasted = square.paste(frame, picture)
    assert np.array_equal(frame[0], cut[0]) and np.array_equal(frame[:, -1], cut[:, -1])
    outside = np.ones(picture.shape[:2], bool)
    outside[31:, :219] = False
    assert np.array_equal(pasted[outside], picture[outside])
    assert (pasted[60:150, 20:180] != picture[60:150, 20:180]).any()
    assert (pasted[45:65, 40:160] != picture[45:65, 40:160]).any()  # outside the portrait too


def test_a_portrait_that_is_not_square_is_refused(codec: MotionAutoencoder):
    with pytest.raises(ValueError, match="60x60 px must be square and at least 64"):
        codec.encode_reference(portrait(60)[None])
