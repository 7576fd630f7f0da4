"""Which messages of a long conversation a language model is given: the end, cut where a turn begins."""

from pipecat.processors.aggregators.llm_context import LLMContextMessage


def tool_rounds(messages: list[LLMContextMessage]) -> int:
    """Answers since the last question that called tools."""
    rounds = 0
    for message in reversed(messages):
        if not isinstance(message, dict) or message["role"] == "user":
            break
        rounds += bool(message.get("tool_calls"))
    return rounds


def recent(messages: list[LLMContextMessage], chars: int) -> list[LLMContextMessage]:
    """All messages while they have at most `chars` characters, else the instruction and the latest of half as many.

    Half: a server that keeps what it has read must read everything again after a cut, so cuts must be rare. The last
    question stays with what followed it, however long, and so do calls of tools with their results: servers refuse one
    without the other.
    """
    if sum(map(_chars, messages[1:])) <= chars:
        return messages
    begin, room = len(messages), chars // 2
    for place in range(len(messages) - 1, 0, -1):
        room -= _chars(messages[place])
        if room < 0 and begin < len(messages):
            break
        if _is_user(messages[place]):
            begin = place
    return [messages[0], *messages[begin:]] if begin < len(messages) else messages


def _is_user(message: LLMContextMessage) -> bool:
    return isinstance(message, dict) and message["role"] == "user"


def _chars(message: LLMContextMessage) -> int:
    if not isinstance(message, dict):
        return 0
    return len(str(message.get("content") or "")) + len(str(message.get("tool_calls") or ""))
