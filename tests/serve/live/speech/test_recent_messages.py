"""The end of a conversation, as a language model is given it again."""

from typing import Any

from serve.live.speech.endpoint_llm import TOOL_ROUNDS
from serve.live.speech.recent_messages import recent, tool_rounds


def test_rounds_of_tools_are_counted_since_the_last_question():
    rounds = [{"role": "assistant", "tool_calls": [{}]}, {"role": "tool", "content": "on"}]
    messages: list[Any] = [{"role": "system", "content": ""}, *rounds, {"role": "user", "content": "Hi"}]
    assert tool_rounds(messages) == 0 and tool_rounds(messages + rounds * TOOL_ROUNDS) == TOOL_ROUNDS


def test_memory_that_is_too_long_is_halved_to_the_instruction_and_the_latest_messages():
    messages: list[Any] = [{"role": "system", "content": "Be kind."}]
    messages += [{"role": "user", "content": str(number) * 10} for number in range(10)]
    assert recent(messages, 100) == messages
    assert recent(messages, 99) == [messages[0], *messages[-4:]]
    assert recent(messages, 3) == [messages[0], messages[-1]]  # what was asked last, however long


def test_what_a_server_has_read_stays_the_beginning_of_what_it_reads_for_many_turns():
    """A memory that moves by a message each turn would make it read everything again each time."""
    messages: list[Any] = [{"role": "system", "content": "Be kind."}]
    again = 0
    for turn in range(100):
        messages.append({"role": "user", "content": f"{turn:010}"})
        kept = recent(messages, 200)
        again += kept[: len(messages) - 1] != messages[:-1]
        messages = kept
    assert again == len(range(21, 101, 11))  # twenty fit in, and a cut leaves ten


def test_a_call_of_a_tool_is_kept_with_its_question_and_its_result_or_not_at_all():
    call = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "lamp", "arguments": "x" * 50}}]}
    turn = [{"role": "user", "content": "On?"}, call, {"role": "tool", "tool_call_id": "1", "content": "y" * 100}]
    messages: list[Any] = [{"role": "system", "content": "Be kind."}, *turn * 4]
    for chars in range(10, 900, 20):
        kept = recent(messages, chars)[1:]
        assert kept[0] == turn[0] and kept[-3:] == turn
