"""An answer of a language model that is begun in a pause, before it is known that the turn is over."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from openai.types.chat import ChatCompletionChunk
from pipecat.processors.aggregators.llm_context import LLMContext

from serve.live.speech.phrases import first_phrase

Chunks = AsyncGenerator[ChatCompletionChunk, None]


class EarlyAnswer:
    """Reads an answer as it comes, until `close`; whoever asks the same is given all of it by `chunks`, once."""

    def __init__(self, asked: LLMContext, answer: Callable[[LLMContext], Awaitable[Chunks]]) -> None:
        """asked: the conversation with the question at its end."""
        self.messages = asked.messages
        self._came = asyncio.Queue[ChatCompletionChunk | None]()
        self._texts = asyncio.Queue[str | None]()
        self._reading = asyncio.create_task(self._read(asked, answer))
        self._reading.add_done_callback(_look_at_error)

    @property
    def failed(self) -> bool:
        return self._reading.done() and (self._reading.cancelled() or self._reading.exception() is not None)

    async def first_phrase(self) -> str:
        """What is spoken first; empty where nothing is, or the answer failed. For one caller."""
        return await first_phrase(self._spoken())

    async def chunks(self) -> Chunks:
        """
        Raises:
            EndpointError: as the answer itself.
        """
        try:
            while (chunk := await self._came.get()) is not None:
                yield chunk
            await self._reading
        finally:
            await self.close()

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])

    async def _read(self, asked: LLMContext, answer: Callable[[LLMContext], Awaitable[Chunks]]) -> None:
        try:
            chunks = await answer(asked)
            try:
                async for chunk in chunks:
                    self._came.put_nowait(chunk)
                    if chunk.choices and chunk.choices[0].delta and (text := chunk.choices[0].delta.content):
                        self._texts.put_nowait(text)
            finally:
                await chunks.aclose()
        finally:
            self._came.put_nowait(None)
            self._texts.put_nowait(None)

    async def _spoken(self) -> AsyncIterator[str]:
        while (text := await self._texts.get()) is not None:
            yield text


def _look_at_error(reading: asyncio.Task[None]) -> None:
    """Whoever asks for the answer gets it; asyncio would print that of an answer that nobody asks for."""
    if not reading.cancelled():
        reading.exception()
