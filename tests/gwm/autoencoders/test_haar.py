import dataclasses

import pytest
import torch

from gwm.autoencoders.haar import HaarAutoencoder
from tests.tiny import VAE_SHAPE, tiny_vae

FP32 = 1e-6  # another batch size may take another convolution algorithm
MARGIN = 7  # latent cells that the border's padding can reach


def noise(num_frames: int, size: int = 6, batch_size: int = 2) -> torch.Tensor:
    return torch.randn(batch_size, num_frames, VAE_SHAPE.latent_channels, size, size)


@pytest.mark.parametrize("sizes", [(1,) * 6, (3, 3), (1, 2, 3), (5, 1)])
@pytest.mark.parametrize("batch_size", [1, 2])
@torch.no_grad()
def test_decoding_chunk_by_chunk_is_decoding_whole(sizes: tuple[int, ...], batch_size: int):
    """To the bit: the batch of one is where PyTorch takes another convolution for one frame than for several."""
    vae, latents = tiny_vae(), noise(6, batch_size=batch_size)
    whole, last_state = vae.decode_pixels(latents)
    state, chunks = None, []
    for chunk in latents.split(sizes, dim=1):
        pixel_frames, state = vae.decode_pixels(chunk, state)
        chunks.append(pixel_frames)
    assert torch.equal(torch.cat(chunks, 1), whole)
    torch.testing.assert_close(state, last_state, rtol=0, atol=0)


@torch.no_grad()
def test_what_training_decodes_at_once_is_what_is_served():
    vae, latents = tiny_vae(), noise(6, batch_size=1)
    served, trained = vae.decode_pixels(latents), vae.decode_at_once(latents, vae.initial_state(latents))
    torch.testing.assert_close(trained, served, rtol=FP32, atol=FP32)


@torch.no_grad()
def test_the_decoder_remembers():
    """Else chunk by chunk would equal whole for the wrong reason."""
    vae, latents = tiny_vae(), noise(2)
    whole, _ = vae.decode_pixels(latents)
    fresh, _ = vae.decode_pixels(latents[:, 1:])
    assert (whole[:, 4:] - fresh).abs().max() > 1e-2


@torch.no_grad()
def test_no_later_latent_reaches_earlier_pixels():
    vae, latents = tiny_vae(), noise(4)
    before, _ = vae.decode_pixels(latents)
    latents[:, 2:] = torch.randn_like(latents[:, 2:])
    after, _ = vae.decode_pixels(latents)
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.equal(before[:, 8:12], after[:, 8:12])


@torch.no_grad()
def test_each_latent_frame_is_four_pixel_frames_of_its_own():
    vae, pixel_frames = tiny_vae(), torch.rand(2, 12, 3, 32, 32) * 2 - 1
    whole = vae.encode_pixels(pixel_frames)
    for i in range(3):
        alone = vae.encode_pixels(pixel_frames[:, 4 * i : 4 * i + 4])
        torch.testing.assert_close(alone[:, 0], whole[:, i], rtol=FP32, atol=FP32)


@torch.no_grad()
def test_away_from_the_border_a_crop_decodes_as_the_whole_picture():
    """What lets a model train on crops and serve whole pictures."""
    vae, latents = tiny_vae(), noise(2, size=20)
    whole, _ = vae.decode_pixels(latents)
    crop, _ = vae.decode_pixels(latents[..., 2:18, 2:18])
    inner = slice(8 * (2 + MARGIN), 8 * (18 - MARGIN))
    inside = slice(8 * MARGIN, 8 * (16 - MARGIN))
    torch.testing.assert_close(crop[..., inside, inside], whole[..., inner, inner], rtol=FP32, atol=FP32)


@torch.no_grad()
def test_away_from_the_border_a_crop_encodes_as_the_whole_picture():
    vae, pixel_frames = tiny_vae(), torch.rand(1, 4, 3, 160, 160) * 2 - 1
    whole, crop = vae.encode_pixels(pixel_frames), vae.encode_pixels(pixel_frames[..., 16:144, 16:144])
    inner, inside = slice(2 + MARGIN, 18 - MARGIN), slice(MARGIN, 16 - MARGIN)
    torch.testing.assert_close(crop[..., inside, inside], whole[..., inner, inner], rtol=FP32, atol=FP32)


@torch.no_grad()
def test_statistics_normalise_latents_and_leave_pixels_alone():
    raw = tiny_vae(dataclasses.replace(VAE_SHAPE, latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4))
    pixel_frames = torch.rand(2, 8, 3, 32, 32) * 2 - 1
    latents = raw.encode_pixels(pixel_frames)
    mean, std = latents.mean((0, 1, 3, 4)), latents.std((0, 1, 3, 4))
    normalised = HaarAutoencoder(
        dataclasses.replace(VAE_SHAPE, latents_mean=tuple(mean.tolist()), latents_std=tuple(std.tolist()))
    )
    normalised.load_state_dict(raw.state_dict())
    unit = normalised.encode_pixels(pixel_frames)
    torch.testing.assert_close(unit.mean((0, 1, 3, 4)), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(unit.std((0, 1, 3, 4)), torch.ones(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(normalised.decode_pixels(unit)[0], raw.decode_pixels(latents)[0], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_still_picture_is_four_equal_frames():
    vae, image = tiny_vae(), torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    reference = vae.encode_reference(image)
    assert torch.equal(reference.latent, vae.encode(torch.stack([image] * 4, 1), reference))


@pytest.mark.parametrize("shape", [(1, 6, 3, 32, 32), (1, 4, 3, 36, 32), (1, 4, 3, 32, 20)])
def test_clip_that_does_not_divide_is_an_error(shape: tuple[int, ...]):
    with pytest.raises(
        ValueError, match=rf"{shape[1]} frames of {shape[3]}x{shape[4]}; frames must be a multiple of 4"
    ):
        tiny_vae().encode_pixels(torch.zeros(shape))
