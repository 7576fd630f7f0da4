"""What the protocol promises, of every family."""

import pytest
import torch

from gwm.autoencoders.families import autoencoder_config, load_autoencoder
from gwm.autoencoders.protocol import KIND, Autoencoder, Memory
from gwm.weights import WeightsHeader, save_weights
from tests.gwm.autoencoders.kit import SIDE, noise, pictures, tiny_autoencoder

FAMILIES = ["haar", "motion", "wan"]


@pytest.fixture(scope="module", params=FAMILIES)
def autoencoder(request: pytest.FixtureRequest) -> Autoencoder:
    return tiny_autoencoder(request.param)


def begun(autoencoder: Autoencoder, batch_size: int = 1) -> Memory:
    return autoencoder.begin(autoencoder.encode_reference(pictures(autoencoder.config.family, batch_size)))


@torch.no_grad()
def test_a_stream_is_its_clip_decoded_whole_to_the_bit(autoencoder: Autoencoder):
    memory, clip = begun(autoencoder), noise(autoencoder, 6)
    whole, end = autoencoder.decode(clip, memory)
    parts, constant = [], memory.constant
    for part in clip.split([1, 3, 2], dim=1):
        frames, memory = autoencoder.decode(part, memory)
        parts.append(frames)
    assert torch.equal(torch.cat(parts, dim=1), whole)
    assert all(torch.equal(*pair) for pair in zip(memory.moving, end.moving, strict=True))
    assert all(now is first for now, first in zip(memory.constant, constant, strict=True))


@torch.no_grad()
def test_decoding_changes_no_memory_and_no_shape(autoencoder: Autoencoder):
    """Going back after an interruption needs the one, a captured graph the other."""
    memory, x0 = begun(autoencoder), noise(autoencoder, 2)
    before = [part.clone() for part in (*memory.constant, *memory.moving)]
    once, after = autoencoder.decode(x0, memory)
    assert all(torch.equal(*pair) for pair in zip((*memory.constant, *memory.moving), before, strict=True))
    assert torch.equal(autoencoder.decode(x0, memory)[0], once)
    assert [part.shape for part in after.moving] == [part.shape for part in memory.moving]


@torch.no_grad()
def test_every_sample_of_a_batch_has_a_reference_of_its_own(autoencoder: Autoencoder):
    """Batched convolutions may round in another order: a level more or less."""
    family = autoencoder.config.family
    images, x0 = pictures(family, 2), noise(autoencoder, 2, batch_size=2)
    clips = pictures(family, 2, 4)
    reference = autoencoder.encode_reference(images)
    latents = autoencoder.encode(clips, reference)
    together = autoencoder.decode(x0, autoencoder.begin(reference))[0]
    for row in range(2):
        one = slice(row, row + 1)
        alone = autoencoder.encode_reference(images[one])
        torch.testing.assert_close(reference.latent[one], alone.latent, rtol=0, atol=1e-5)
        torch.testing.assert_close(autoencoder.encode(clips[one], alone), latents[one], rtol=1e-4, atol=1e-4)
        frames = autoencoder.decode(x0[one], autoencoder.begin(alone))[0]
        assert (frames.int() - together[one].int()).abs().max() <= 1
    assert (together[0].int() - together[1].int()).abs().float().mean() > 1


@torch.no_grad()
def test_frames_are_as_many_and_as_large_as_those_that_were_encoded(autoencoder: Autoencoder):
    family = autoencoder.config.family
    reference = autoencoder.encode_reference(pictures(family, 1))
    latents = autoencoder.encode(pictures(family, 1, 8), reference)
    assert latents.shape[1:] == (2, *reference.latent.shape[2:]) and latents.dtype == autoencoder.dtype
    frames, _ = autoencoder.decode(latents, autoencoder.begin(reference))
    assert frames.shape == (1, 8, SIDE[family], SIDE[family], 3)


@torch.no_grad()
def test_what_is_kept_of_a_reference_is_enough_to_begin_or_refused(autoencoder: Autoencoder):
    reference = autoencoder.encode_reference(pictures(autoencoder.config.family, 1))
    if autoencoder.config.family == "motion":
        with pytest.raises(ValueError, match="must be given the reference image"):
            autoencoder.from_latent(reference.latent)
        return
    kept, begun = (autoencoder.begin(of) for of in (autoencoder.from_latent(reference.latent), reference))
    assert all(torch.equal(*pair) for pair in zip(kept.moving, begun.moving, strict=True))


def test_weights_of_every_family_come_back_by_the_name_in_their_config(autoencoder: Autoencoder, tmp_path):
    config = autoencoder.config
    save_weights(tmp_path, autoencoder.state_dict(), WeightsHeader(kind=KIND, config=config.to_json()))
    loaded = load_autoencoder(tmp_path)
    assert type(loaded) is type(autoencoder) and loaded.config == config
    assert all(torch.equal(loaded.state_dict()[name], x) for name, x in autoencoder.state_dict().items())


@pytest.mark.parametrize("family", [None, "vae"])
def test_a_config_without_a_known_family_is_refused(family: str | None):
    values = {"latent_channels": 64} | ({} if family is None else {"family": family})
    with pytest.raises(ValueError, match=rf"family={family!r} must be one of haar, motion, wan"):
        autoencoder_config(values)
