"""Static memory and graph of the decoder, with every family of autoencoder."""

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from gwm.autoencoders.protocol import Autoencoder, Reference
from gwm.media.framing import Framing
from gwm.resolution import Resolution
from serve.decoder import StreamDecoder
from serve.graphs import capture_cuda
from tests.gwm.autoencoders.kit import SIDE, noise, pictures, tiny_autoencoder
from tests.serve.test_graphs import recorded

NUM_CHUNKS = 3


@pytest.fixture(params=["haar", "motion", "wan"])
def vae(request: pytest.FixtureRequest) -> Autoencoder:
    return tiny_autoencoder(request.param)


def streaming(vae: Autoencoder, num_frames: int, capture: Callable | None) -> StreamDecoder:
    side = SIDE[vae.config.family]
    return StreamDecoder(
        vae,
        tuple(noise(vae, num_frames).shape),
        framing=Framing(Resolution(side, side), vae.config.margin(side)),
        capture=capture,
    )


def image(vae: Autoencoder) -> Reference:
    return vae.encode_reference(pictures(vae.config.family, 1))


def played(decoder: StreamDecoder, reference: Reference, clip: Tensor) -> np.ndarray:
    decoder.start(reference)
    return np.concatenate([decoder(chunk) for chunk in clip.split(decoder.latents.shape[1], dim=1)])


@pytest.mark.parametrize("capture", [None, recorded])
@pytest.mark.parametrize("chunk_frames", [1, 2])
@torch.no_grad()
def test_every_stream_is_its_clip_decoded_whole_behind_its_reference(
    vae: Autoencoder, capture: Callable | None, chunk_frames: int
):
    """Also the second stream, and also where a graph ran for its capture before both."""
    decoder = streaming(vae, chunk_frames, capture)
    for _ in range(2):
        reference, clip = image(vae), noise(vae, NUM_CHUNKS * chunk_frames)
        whole = vae.decode(clip, vae.begin(reference))[0][0].numpy()
        assert np.array_equal(played(decoder, reference, clip), whole)


@torch.no_grad()
def test_a_captured_decoder_remembers_nothing_before_its_first_stream(vae: Autoencoder):
    made, fresh = (streaming(vae, 1, capture).memory for capture in (recorded, None))
    assert all(torch.equal(*pair) for pair in zip(made.moving, fresh.moving, strict=True))


@torch.no_grad()
def test_neither_a_chunk_nor_a_new_stream_moves_storage(vae: Autoencoder):
    """A captured graph reads and writes where these were when it was captured."""
    decoder = streaming(vae, 1, None)

    def places() -> list[int]:
        return [
            part.data_ptr()
            for part in (decoder.latents, decoder.frames, *decoder.memory.constant, *decoder.memory.moving)
        ]

    before = places()
    for _ in range(2):
        played(decoder, image(vae), noise(vae, NUM_CHUNKS))
    assert places() == before


@torch.no_grad()
def test_frames_stay_as_they_are_when_the_next_chunk_comes(vae: Autoencoder):
    decoder = streaming(vae, 1, None)
    decoder.start(image(vae))
    first = decoder(noise(vae, 1))
    kept = first.copy()
    assert not np.array_equal(decoder(noise(vae, 1)), kept)
    assert np.array_equal(first, kept)


@torch.no_grad()
def test_a_failed_capture_decodes_eagerly_and_says_so_once(vae: Autoencoder, caplog: pytest.LogCaptureFixture):
    def fail(body: Callable[[], None]) -> Callable[[], None]:
        body()
        raise RuntimeError("operation not permitted when stream is capturing")

    reference, clip = image(vae), noise(vae, NUM_CHUNKS)
    expected = played(streaming(vae, 1, None), reference, clip)
    with caplog.at_level(logging.INFO):
        made = played(streaming(vae, 1, fail), reference, clip)
    assert np.array_equal(made, expected)
    assert [record.message for record in caplog.records] == [
        "no CUDA graph of the decoder, which runs eagerly and launches every kernel from the host: "
        "operation not permitted when stream is capturing"
    ]


@pytest.mark.gpu
@torch.no_grad()
def test_replayed_frames_are_the_eager_twins_and_steady_chunks_allocate_nothing(vae: Autoencoder):
    vae = vae.cuda()
    reference, clip = image(vae), noise(vae, NUM_CHUNKS)
    expected = played(streaming(vae, 1, None), reference, clip)
    decoder = streaming(vae, 1, capture_cuda)
    assert decoder.replay is not None
    made = played(decoder, reference, clip)
    assert np.abs(made.astype(int) - expected).max() <= 1
    before = torch.cuda.memory_allocated()
    played(decoder, reference, clip)
    assert torch.cuda.memory_allocated() == before
