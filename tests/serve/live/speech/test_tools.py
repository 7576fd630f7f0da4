"""Calls of tools: checked, with an end, and in a conversation whose language model is a program."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from serve.live.speech.endpoint_llm import TOOL_ROUNDS, EndpointLLM
from serve.live.speech.endpoints import Caller, Endpoint
from serve.live.speech.tools import (
    ARGUMENT_CHARS,
    GONE,
    INTERRUPTED,
    NOBODY,
    RESULT_CHARS,
    WAITING_CALLS,
    BackendPlace,
    Call,
    CallError,
    Tool,
    WaitingCalls,
    check_arguments,
    perform,
)
from tests.serve.live.remote_kit import Remote, streamed
from tests.serve.live.speech.test_agent import Conversation, happened
from tests.serve.live.speech.test_endpoint_llm import call

SCHEMA = {
    "properties": {
        "room": {"type": "string", "enum": ["hall", "attic"]},
        "level": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "at": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]},
    },
    "required": ["room"],
    "additionalProperties": False,
}


def tool_of(run: Callable[[dict[str, Any]], Awaitable[Any]], *, timeout_s: float = 5.0) -> Tool:
    return Tool(name="lamp", description="Switches.", parameters=SCHEMA, timeout_s=timeout_s, run=run)


async def echo(arguments: dict[str, Any]) -> Any:
    return arguments


async def replaced(arguments: dict[str, Any]) -> Any:
    raise AssertionError("another tool took its name")


def performed(tool: Tool, arguments: dict[str, Any]) -> tuple[Any, Call]:
    ended: list[Call] = []
    answer = asyncio.run(perform(tool, "7", arguments, ended.append))
    return answer, ended[0]


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ({}, "must have room"),
        ({"room": "cellar"}, "one of hall, attic"),
        ({"room": 1}, "arguments.room must be of type string"),
        ({"room": "hall", "level": True}, "level must be of type integer"),
        ({"room": "hall", "level": 1.5}, "level must be of type integer"),
        ({"room": "hall", "tags": ["a", 1]}, r"tags\[1\] must be of type string"),
        ({"room": "hall", "at": {}}, "at must have x"),
        ({"room": "hall", "door": 1}, "must not have door"),
        ({"room": "hall", "tags": ["x" * ARGUMENT_CHARS]}, "at most"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_is_called(arguments: dict[str, Any], cause: str):
    with pytest.raises(CallError, match=cause):
        check_arguments(arguments, SCHEMA)
    answer, ended = performed(tool_of(echo), arguments)
    assert ended.result is None and answer == {"error": ended.error}


def test_a_result_is_given_back_and_recorded_with_its_arguments():
    answer, ended = performed(tool_of(echo), {"room": "hall", "at": {"x": 1}})
    assert answer == {"result": {"room": "hall", "at": {"x": 1}}}
    assert (ended.id, ended.name, ended.error, ended.result) == ("7", "lamp", None, answer["result"])


def test_a_tool_that_fails_or_takes_too_long_is_told_to_the_model_by_its_cause():
    async def fail(arguments: dict[str, Any]) -> Any:
        raise CallError("The bulb is broken.")

    async def wait(arguments: dict[str, Any]) -> Any:
        await asyncio.sleep(60)

    assert performed(tool_of(fail), {"room": "hall"})[0] == {"error": "The bulb is broken."}
    assert performed(tool_of(wait, timeout_s=0.05), {"room": "hall"})[0] == {
        "error": "lamp did not answer within 0.05 s."
    }


def test_a_result_beyond_what_a_model_can_read_is_cut_off():
    async def much(arguments: dict[str, Any]) -> Any:
        return ["x" * 100] * 1_000

    answer, _ = performed(tool_of(much), {"room": "hall"})
    assert len(answer["result"]) < RESULT_CHARS + 20 and answer["result"].endswith("(cut off)")


def test_a_call_that_is_given_up_is_recorded_as_such():
    ended: list[Call] = []

    async def run() -> None:
        task = asyncio.create_task(perform(tool_of(lambda _: asyncio.sleep(60)), "7", {"room": "hall"}, ended.append))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(run())
    assert ended[0].error == INTERRUPTED


def test_calls_of_a_program_end_with_its_answer_with_it_or_in_time_and_are_bounded():
    async def script() -> None:
        calls, sent = WaitingCalls(), list[str]()

        async def send(call_id: str) -> None:
            sent.append(call_id)

        async def outcome(timeout_s: float = 9.0) -> str:
            try:
                return await calls.call("lamp", send, timeout_s=timeout_s)
            except CallError as error:
                return str(error)

        late = asyncio.create_task(outcome(0.01))
        waiting = [asyncio.create_task(outcome()) for _ in range(WAITING_CALLS - 1)]
        await asyncio.sleep(0)
        assert "32 calls wait" in await outcome()
        calls.answer(sent[1], "on")
        calls.answer(sent[2], CallError("broken"))
        calls.answer(sent[1], "again")
        assert [await each for each in waiting[:2]] == ["on", "broken"]
        assert "within 0.01 s" in await late
        calls.answer(sent[0], "too late")
        calls.end()
        assert {await each for each in waiting[2:]} == {GONE}
        assert "within 0.01 s" in await outcome(0.01)  # none of them is counted any more

    asyncio.run(script())


def test_the_backend_that_came_last_is_asked_and_without_one_the_model_hears_why():
    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        async def call(self, method: str, arguments: dict[str, Any], *, timeout_s: float) -> str:
            return self.name

    async def run() -> None:
        place, first, second = BackendPlace(), Named("first"), Named("second")
        for backend in (first, second):
            place.attach(backend)
        assert await place.call("lamp", {}, timeout_s=1) == "second"
        place.detach(second)
        assert await place.call("lamp", {}, timeout_s=1) == "first"
        place.detach(first)
        with pytest.raises(CallError, match=NOBODY):
            await place.call("lamp", {}, timeout_s=1)

    asyncio.run(run())


def talked(
    reply: Callable[[list[dict[str, Any]]], web.StreamResponse],
    *questions: str,
    calls_tools: bool = True,
) -> tuple[Conversation, Remote, list[Call]]:
    """Questions to a model that replies to its messages, with one tool."""
    ended: list[Call] = []

    async def answer(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        return reply(asked["messages"])

    async def script(conversation: Conversation) -> None:
        async with remote.serving() as url:
            caller.endpoint = Endpoint(url=url, model="m", key_variable="")
            llm._client = llm.create_client(api_key="none", base_url=url)
            conversation.agent.on_call = ended.append
            for run in (replaced, echo):  # the last one of a name counts
                conversation.agent.offer([tool_of(run)])
            for number, question in enumerate(questions or ("Light in the hall, please.",), start=1):
                await conversation.agent.read(question)
                await conversation.play_until(lambda number=number: conversation.states.count("listening") == number)

    remote = Remote(answer)
    caller = Caller(Endpoint(url="http://127.0.0.1:9/v1", model="m", key_variable=""), "llm")
    caller._answered_s, caller.markup.has_opening_tag = 1e9, True  # warm
    llm = EndpointLLM(caller, instruction="", calls_tools=calls_tools)
    return happened(script, llm), remote, ended


def test_a_tool_is_offered_called_and_its_result_spoken():
    def reply(messages: list[dict[str, Any]]) -> web.StreamResponse:
        if messages[-1]["role"] == "tool":
            return streamed(f"Done: {json.loads(messages[-1]['content'])['result']['room']}.")
        return streamed(call(0, "lamp", '{"room": "hall"}'), finish="tool_calls")

    conversation, remote, ended = talked(reply)
    (offered,) = [tool["function"] for tool in remote.asked[0]["tools"]]
    assert (offered["name"], offered["parameters"]["required"]) == ("lamp", ["room"])
    assert conversation.words == ["Done:", "hall."] and ended[0].arguments == {"room": "hall"}
    assert [event for event in conversation.events if event["type"] == "error"] == []


def test_a_model_that_never_stops_calling_is_not_asked_for_ever():
    def reply(messages: list[dict[str, Any]]) -> web.StreamResponse:
        return streamed(call(0, "lamp", '{"room": "hall"}'), finish="tool_calls")

    _, remote, ended = talked(reply)
    assert len(ended) == TOOL_ROUNDS and len(remote.asked) == TOOL_ROUNDS + 1 and "tools" not in remote.asked[-1]


def test_rules_call_for_a_model_that_calls_no_tools_and_all_other_questions_are_its_own():
    conversation, remote, ended = talked(
        lambda messages: streamed("I am well."), "Switch the lamp in the hall on.", "How are you?", calls_tools=False
    )
    assert [(one.name, one.error) for one in ended] == [("lamp", None)]
    (asked,) = remote.asked
    assert "tools" not in asked and asked["messages"][-1]["content"] == "How are you?"
    assert conversation.words == ["Lamp:", "room", "hall.", "I", "am", "well."]
