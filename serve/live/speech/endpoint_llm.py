"""A language model behind OpenAI's API: what it streams is checked, and only what a person would say is passed on."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
from openai import OpenAIError
from openai.types.chat import ChatCompletionChunk
from pipecat.frames.frames import Frame, LLMContextFrame, StartFrame, SystemFrame, VADUserStartedSpeakingFrame
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.utils.types import is_given

from serve.live.speech.early_answer import EarlyAnswer
from serve.live.speech.endpoint_failures import explained, unexpected
from serve.live.speech.endpoints import Caller, WarmUp
from serve.live.speech.knowledge import GIVEN_CHARS, Knowledge, Passage, fitting, new_mark, quoted
from serve.live.speech.recent_messages import recent, tool_rounds
from serve.live.speech.sight_rules import look_where_asked
from serve.live.speech.spoken import SpokenText
from serve.live.vision.pictures import Picture
from serve.live.vision.sight import Sight

ANSWER_TOKENS = 400  # two minutes of speech
ANSWER_CHARS = 8_000  # where a server does not obey the number of tokens
MEMORY_CHARS = 40_000
GAP_S = 20.0  # between two parts of an answer
TOOL_ROUNDS = 4  # requests after a tool's result, for one question
# What the client raises on answers that do not come, break off or have another form.
BROKEN = (OpenAIError, httpx2.HTTPError, OSError, ValueError, TypeError, KeyError, AttributeError, IndexError)
GREETING = "Say hello in one word."


@dataclass
class NoticeFrame(SystemFrame):
    """Something that the visitor should know while nothing else happens."""

    text: str


class EndpointLLM(OpenAILLMService):
    """A language model whose memory is the end of the conversation, so that it never outgrows the model's context.

    One request is made a question, and one more after each round of tools that were declared. When a session starts the
    server is asked for something short: it loads its model, reads the instruction, and shows whether the model thinks.
    """

    def __init__(
        self,
        caller: Caller,
        *,
        instruction: str,
        tokens: int = ANSWER_TOKENS,
        knowledge: Knowledge | None = None,
        memory_chars: int = MEMORY_CHARS,
        known_chars: int = GIVEN_CHARS,
        reads_first: bool = False,
        calls_tools: bool = True,
    ) -> None:
        # max_tokens is the name that most servers know; where it is refused by name, the other one is sent.
        settings = OpenAILLMService.Settings(model=caller.endpoint.model, max_tokens=tokens)
        self.caller, self.instruction, self.memory_chars = caller, instruction, memory_chars
        self.tokens, self.reads_first, self.calls_tools = tokens, reads_first, calls_tools
        self.knowledge, self.known_chars, self._mark = knowledge, known_chars, new_mark()
        self.sight: Sight | None = None
        self.answers_early = caller.endpoint.answers_early
        self._early: EarlyAnswer | None = None
        super().__init__(api_key=caller.endpoint.key, base_url=caller.endpoint.url, settings=settings)
        self._warm_up = WarmUp(self, caller)

    def create_client(self, *args: Any, **kwargs: Any) -> Any:
        client = super().create_client(*args, **kwargs)
        return client.with_options(timeout=self.caller.endpoint.timeout, max_retries=0)

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        if self.reads_first or not self.caller.warm:
            self._warm_up.begin(self._first_request)

    async def cleanup(self) -> None:
        await self._warm_up.end()
        await self._forget_early()
        await super().cleanup()
        await self._client.close()  # or its connections stay open until the garbage is collected

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, LLMContextFrame):
            frame.context.set_messages(recent(frame.context.messages, self.memory_chars))
        elif isinstance(frame, VADUserStartedSpeakingFrame):
            await self._forget_early()
        await super().process_frame(frame, direction)

    async def begin_answer(self, context: LLMContext, heard: str) -> str:
        """Begin to answer what will be asked if `heard` was all: the first phrase of it."""
        await self._forget_early()
        messages = recent([*context.messages, {"role": "user", "content": heard}], self.memory_chars)
        asked = LLMContext(messages, tools=context.tools, tool_choice=context.tool_choice)
        self._early = early = EarlyAnswer(asked, self._completions)
        return await early.first_phrase()

    async def get_chat_completions(self, context: LLMContext) -> Any:
        """The checked stream; that of an answer which was begun to the same question.

        Raises:
            EndpointError: there is no answer; the message says why.
        """
        early = self._early
        if early and early.messages == context.messages and not early.failed:
            self._early = None
            return early.chunks()
        await self._forget_early()
        return await self._completions(context)

    async def _forget_early(self) -> None:
        """An answer that is not asked for."""
        if self._early:
            early, self._early = self._early, None
            await early.close()

    async def _completions(self, context: LLMContext) -> AsyncGenerator[ChatCompletionChunk, None]:
        given = await self.get_llm_adapter().get_llm_invocation_params(context, convert_developer_to_user=True)
        parameters = {name: value for name, value in self.build_chat_completion_params(given).items() if _given(value)}
        rounds = tool_rounds(context.messages)
        if self.sight is not None and not rounds:
            self.sight.begin_question()
        if rounds >= TOOL_ROUNDS:
            parameters.pop("tools", None)
            parameters.pop("tool_choice", None)
        return self._answer(parameters | {"messages": await self._with_passages(parameters["messages"])})

    async def _with_passages(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Messages whose last question begins with what documents say to it and what the visitor shows.

        The memory keeps the question alone: a picture is sent with questions that are asked while it is shown.
        """
        places = [
            place
            for place, message in enumerate(messages)
            if message["role"] == "user" and isinstance(message["content"], str)
        ]
        if not places:
            return messages
        passages, last = list[Passage](), messages[places[-1]]
        if self.knowledge is not None:
            found = await self.knowledge.passages([messages[place]["content"] for place in places[-2:]])
            passages += fitting(found, self.known_chars)
        if self.sight is not None:
            if not self.calls_tools:
                await look_where_asked(last["content"], self.sight)
            passages += [Passage(seen.title, seen.text) for seen in self.sight.sightings()]
        content: Any = quoted(passages, last["content"], mark=self._mark)
        if self.sight is not None and (pictures := self.sight.pictures()):
            content = [{"type": "text", "text": content}, *_image_parts(pictures)]
        return [*messages[: places[-1]], last | {"content": content}, *messages[places[-1] + 1 :]]

    async def _first_request(self) -> None:
        """Have the model loaded, the instruction read, and its markup shown before the first question."""
        messages = [{"role": "system", "content": self.instruction}]
        known = self.caller.markup.has_opening_tag is not None
        if not known:
            messages.append({"role": "user", "content": GREETING})
        tokens = 1 if known else self.tokens
        parameters = {"model": self._settings.model, "messages": messages, "max_tokens": tokens, "stream": True}
        async for _ in self._answer(parameters):
            pass

    async def _answer(self, parameters: dict[str, Any]) -> AsyncGenerator[ChatCompletionChunk, None]:
        """Chunks with speech in the place of text, and with calls of declared tools alone."""
        try:
            create: Any = self._client.chat.completions.create
            stream: Any = await self.caller.send(create, parameters, on_slow=self._notify)
            reader = _Reader(SpokenText(self.caller.markup), _tool_names(parameters))
            try:
                async for chunk in _chunks(stream, self.caller):
                    if reader.chars > ANSWER_CHARS:
                        break
                    yield reader.read(chunk)
            finally:
                await stream.close()
            if rest := reader.rest():
                yield rest
            if wrong := reader.wrong():
                raise self.caller.place.error(wrong)
        except BROKEN as error:
            raise explained(error, self.caller.place) from error

    def _notify(self, message: str) -> None:
        self.create_task(self.push_frame(NoticeFrame(message), FrameDirection.UPSTREAM))


def _image_parts(pictures: list[Picture]) -> Iterator[dict[str, Any]]:
    """Each with a line that says what it is; the JPEG as it came."""
    for picture in pictures:
        yield {"type": "text", "text": f"The visitor's {picture.source}, as it is now:"}
        url = f"data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}"
        yield {"type": "image_url", "image_url": {"url": url}}


class _Reader:
    """One answer, chunk by chunk."""

    def __init__(self, spoken: SpokenText, tools: set[str]) -> None:
        self.spoken, self.tools = spoken, tools
        self.chars = 0
        self._said = self._undeclared = False
        self._finish: str | None = None
        self._last: ChatCompletionChunk | None = None
        self._places: dict[int, int] = {}  # of declared calls, in the order of the answer
        self._arguments: dict[int, str] = {}

    def read(self, chunk: ChatCompletionChunk) -> ChatCompletionChunk:
        if not chunk.choices or not chunk.choices[0].delta:
            return chunk
        choice = chunk.choices[0]
        self._finish, self._last = choice.finish_reason or self._finish, chunk
        text = choice.delta.content or ""
        self.chars += len(text)
        choice.delta.content = self.spoken.feed(text)
        self._said |= bool(choice.delta.content.strip())
        choice.delta.tool_calls = self._declared(choice.delta.tool_calls or [])
        return chunk

    def rest(self) -> ChatCompletionChunk | None:
        """What the end of the answer has decided."""
        text = self.spoken.end(complete=self._finish != "length" and self.chars <= ANSWER_CHARS)
        if self._last is None or not text:
            return None
        self._said |= bool(text.strip())
        last = self._last.model_copy(deep=True)
        last.usage, last.choices[0].delta.content, last.choices[0].delta.tool_calls = None, text, None
        return last

    def wrong(self) -> str:
        """Why there is nothing to say; empty where there is."""
        for arguments in self._arguments.values():
            try:
                json.loads(arguments or "{}")
            except ValueError:
                return "called a tool with arguments that are no JSON. Ask again."
        if self._said or self._places:
            return ""
        if self._undeclared:
            return "called a tool that does not exist, and said nothing. Ask again."
        if self._finish == "content_filter":
            return "does not answer this: its content filter has stopped it."
        if self.chars:
            return "thought, or wrote what cannot be said, and came to no answer. Ask again."
        return "ended without a word. Ask again."

    def _declared(self, calls: list[Any]) -> list[Any] | None:
        """Those of tools that were offered; nobody could answer the others, and the model would be asked again."""
        kept = []
        for call in calls:
            name = call.function.name if call.function else None
            if name and name not in self.tools:
                self._undeclared = True
            elif name or call.index in self._places:
                self._places.setdefault(call.index, len(self._places))
                arguments = call.function.arguments if call.function else None
                self._arguments[call.index] = self._arguments.get(call.index, "") + (arguments or "")
                call.index = self._places[call.index]
                kept.append(call)
        return kept or None


async def _chunks(stream: Any, caller: Caller) -> AsyncIterator[ChatCompletionChunk]:
    """The parts of a streamed answer; one that came whole is one part.

    Raises:
        EndpointError: the body is neither.
        TimeoutError: the next part does not come.
    """
    kind = stream.response.headers.get("content-type", "").partition(";")[0].strip()
    if kind == "application/json" or kind.startswith("text/html"):
        body = await stream.response.aread()
        yield _whole(kind, body, caller)
        return
    chunks = aiter(stream)
    while True:
        try:
            async with asyncio.timeout(GAP_S):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise caller.place.error(f"stopped in the middle of an answer for {GAP_S:.0f} s. Ask again.") from error
        yield chunk


def _whole(kind: str, body: bytes, caller: Caller) -> ChatCompletionChunk:
    try:
        choice = json.loads(body)["choices"][0]
        text, finish = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise unexpected(kind, body, caller.place) from error
    part = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return ChatCompletionChunk.model_validate(
        {"id": "", "created": 0, "model": caller.endpoint.model, "object": "chat.completion.chunk", "choices": [part]}
    )


def _given(value: Any) -> bool:
    return is_given(value) and type(value).__name__ not in ("NotGiven", "Omit")


def _tool_names(parameters: dict[str, Any]) -> set[str]:
    return {tool["function"]["name"] for tool in parameters.get("tools") or []}
