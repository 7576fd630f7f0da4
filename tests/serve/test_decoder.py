"""Static state and graph of the decoder, with both autoencoders."""

import dataclasses
import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from gwm.autoencoder import Autoencoder
from gwm.pixels import to_uint8
from gwm.vae import VAE
from gwm.wan.vae import WanVAE
from gwm.wan.vae_config import WAN2_1_VAE
from serve.decoder import StreamDecoder
from serve.graphs import capture_cuda
from tests.serve.test_graphs import recorded
from tests.tiny import GRID, lively, tiny_vae

NUM_CHUNKS = 3


@pytest.fixture(params=["small", "wan"])
def vae(request: pytest.FixtureRequest) -> Autoencoder:
    torch.manual_seed(0)
    if request.param == "small":
        return tiny_vae().eval().requires_grad_(False)
    made = lively(WanVAE(dataclasses.replace(WAN2_1_VAE, base_dim=8, decoder_base_dim=8)))
    assert isinstance(made, WanVAE)
    return made.eval().requires_grad_(False)


def noise(vae: VAE | WanVAE, num_frames: int) -> Tensor:
    return torch.randn(1, num_frames, vae.config.latent_channels, *GRID, device=vae.mean.device)


def played(decoder: StreamDecoder, reference: Tensor, clip: Tensor) -> np.ndarray:
    decoder.start(reference)
    return np.concatenate([decoder(chunk) for chunk in clip.split(decoder.latents.shape[1], dim=1)])


@pytest.mark.parametrize("capture", [None, recorded])
@pytest.mark.parametrize("chunk_frames", [1, 2])
@torch.no_grad()
def test_every_stream_is_its_clip_decoded_whole_behind_its_reference(
    vae: Autoencoder, capture: Callable | None, chunk_frames: int
):
    """Also the second stream, and also where a graph ran for its capture before both."""
    decoder = StreamDecoder(vae, noise(vae, chunk_frames).shape, capture=capture)
    for _ in range(2):
        reference, clip = noise(vae, 1), noise(vae, NUM_CHUNKS * chunk_frames)
        whole = to_uint8(vae.decode(clip, vae.state_after(reference))[0][0])
        assert np.array_equal(played(decoder, reference, clip), whole)


@torch.no_grad()
def test_a_captured_decoder_remembers_nothing_before_its_first_stream(vae: Autoencoder):
    decoder = StreamDecoder(vae, noise(vae, 1).shape, capture=recorded)
    assert not any(part.any() for part in decoder.state)


@torch.no_grad()
def test_neither_a_chunk_nor_a_new_stream_moves_storage(vae: Autoencoder):
    """A captured graph reads and writes where these were when it was captured."""
    decoder = StreamDecoder(vae, noise(vae, 1).shape, capture=None)

    def places() -> list[int]:
        return [part.data_ptr() for part in (decoder.latents, decoder.frames, *decoder.state)]

    before = places()
    for _ in range(2):
        played(decoder, noise(vae, 1), noise(vae, NUM_CHUNKS))
    assert places() == before


@torch.no_grad()
def test_frames_stay_as_they_are_when_the_next_chunk_comes(vae: Autoencoder):
    decoder = StreamDecoder(vae, noise(vae, 1).shape, capture=None)
    first = decoder(noise(vae, 1))
    kept = first.copy()
    assert not np.array_equal(decoder(noise(vae, 1)), kept)
    assert np.array_equal(first, kept)


@torch.no_grad()
def test_a_failed_capture_decodes_eagerly_and_says_so_once(vae: Autoencoder, caplog: pytest.LogCaptureFixture):
    def fail(body: Callable[[], None]) -> Callable[[], None]:
        body()
        raise RuntimeError("operation not permitted when stream is capturing")

    reference, clip = noise(vae, 1), noise(vae, NUM_CHUNKS)
    expected = played(StreamDecoder(vae, clip[:, :1].shape, capture=None), reference, clip)
    with caplog.at_level(logging.INFO):
        made = played(StreamDecoder(vae, clip[:, :1].shape, capture=fail), reference, clip)
    assert np.array_equal(made, expected)
    assert [record.message for record in caplog.records] == [
        "no CUDA graph of the decoder, which runs eagerly and launches every kernel from the host: "
        "operation not permitted when stream is capturing"
    ]


@pytest.mark.gpu
@torch.no_grad()
def test_replayed_frames_are_the_eager_twins_and_steady_chunks_allocate_nothing(vae: Autoencoder):
    vae = vae.cuda()
    reference, clip = noise(vae, 1), noise(vae, NUM_CHUNKS)
    expected = played(StreamDecoder(vae, clip[:, :1].shape, capture=None), reference, clip)
    decoder = StreamDecoder(vae, clip[:, :1].shape, capture=capture_cuda)
    assert decoder.replay is not None
    made = played(decoder, reference, clip)
    assert np.abs(made.astype(int) - expected).max() <= 1
    before = torch.cuda.memory_allocated()
    played(decoder, reference, clip)
    assert torch.cuda.memory_allocated() == before
