import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gwm.autoencoders.haar import HaarAutoencoder, from_bands, to_bands
from tests.tiny import VAE_SHAPE
from train.autoencoder import fit_patches, motion_kept, reconstruction_loss, with_statistics

CHANNELS = 4
SHAPE = dataclasses.replace(VAE_SHAPE, latents_mean=(0.0,) * CHANNELS, latents_std=(1.0,) * CHANNELS)
WEIGHTS = {"motion": 4.0, "gradient": 1.0, "change": 4.0}


def simple_clips(rank: int, count: int = 8) -> list[Tensor]:
    """Clips whose packs of 8x8 patches are mixtures of `rank` fixed patches."""
    atoms = 0.1 * torch.randn(rank, 4, 3, 8, 8)
    mixtures = torch.randn(count, 4, 2, 2, rank)  # clips, packs, rows and columns of patches
    packs = torch.einsum("nfyxr,rkcuv->nfkcyuxv", mixtures, atoms)
    clips = packs.reshape(count, 1, 16, 3, 16, 16)
    return [*clips, *-clips]


def test_bands_keep_everything():
    frames = torch.rand(2, 8, 3, 16, 16)
    torch.testing.assert_close(from_bands(to_bands(frames)), frames, rtol=0, atol=1e-6)


def test_a_still_pack_has_no_changing_bands():
    still = torch.rand(1, 1, 3, 16, 16).expand(-1, 4, -1, -1, -1)
    assert to_bands(still)[:, :, 3:].abs().max() < 1e-5
    torch.testing.assert_close(to_bands(still)[:, 0, :3], 2 * still[:, 0], rtol=0, atol=1e-6)


@torch.no_grad()
def test_patches_start_at_the_principal_components():
    """As many latent channels as the clips have degrees of freedom: nothing is lost; one more, and something is."""
    for rank, exact in ((CHANNELS, True), (CHANNELS + 1, False)):
        torch.manual_seed(0)
        clips = simple_clips(rank)
        vae = HaarAutoencoder(SHAPE).eval()
        fit_patches(vae, clips)
        lost = max((vae.decode_pixels(vae.encode_pixels(clip))[0] - clip).abs().max().item() for clip in clips)
        assert (lost < 1e-3) == exact, lost


@torch.no_grad()
def test_latents_of_fitted_patches_have_deviation_one():
    vae, clips = HaarAutoencoder(SHAPE).eval(), simple_clips(CHANNELS, count=64)
    fit_patches(vae, clips)
    latents = torch.cat([vae.encode_pixels(clip) for clip in clips])
    torch.testing.assert_close(latents.std((0, 1, 3, 4)), torch.ones(CHANNELS), rtol=0.25, atol=0)


def test_four_equal_frames_cost_more_than_blurred_motion():
    """Where a bar may go left or right, the mean of both must beat standing still: L1 alone would not tell."""
    frames = torch.zeros(1, 4, 3, 16, 16)
    for t in range(4):
        frames[:, t, :, :, 2 * t + 4 : 2 * t + 8] = 0.5
    still = frames.mean(1, keepdim=True).expand_as(frames)
    half = still + 0.5 * (frames - still)
    assert reconstruction_loss(half, frames, **WEIGHTS) < reconstruction_loss(still, frames, **WEIGHTS)
    assert reconstruction_loss(frames, frames, **WEIGHTS) == 0


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_motion_kept_is_one_less_the_share_of_energy_missed(share: float):
    frames = torch.rand(1, 8, 3, 16, 16)
    packs = frames.unflatten(1, (-1, 4))
    still = packs.mean(2, keepdim=True)
    decoded = (still + share * (packs - still)).flatten(1, 2)
    assert motion_kept(decoded, frames).item() == pytest.approx(1 - (1 - share) ** 2, abs=1e-5)


@torch.no_grad()
def test_latents_leave_with_mean_square_one_in_proportion_to_what_they_draw(monkeypatch: pytest.MonkeyPatch):
    clips = simple_clips(CHANNELS, count=64)
    vae = HaarAutoencoder(SHAPE).eval()
    fit_patches(vae, clips)
    monkeypatch.setattr("train.autoencoder.first_clips", lambda shards, vae: clips)
    normalised = with_statistics(vae, Path("shards"))
    latents = torch.cat([normalised.encode_pixels(clip) for clip in clips])
    std = latents.std((0, 1, 3, 4))
    drawn = normalised.decoder.unpatch.weight.flatten(1).norm(dim=1)  # of latents with deviation one
    assert std.square().mean().item() == pytest.approx(1, rel=0.02)
    torch.testing.assert_close(std / std.mean(), drawn / drawn.mean(), rtol=0.1, atol=0)
    torch.testing.assert_close(
        normalised.decode_pixels(latents[:1])[0], vae.decode_pixels(vae.encode_pixels(clips[0]))[0], rtol=0, atol=1e-4
    )
