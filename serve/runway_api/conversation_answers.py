"""Conversations as clients are answered: with whom, and what was said and called."""

from typing import Any, Literal

from serve.runway_api.answers import Answer, Time


class PresetHead(Answer):
    type: Literal["runway-preset"] = "runway-preset"
    preset_id: str
    name: str


class CustomHead(Answer):
    type: Literal["custom"] = "custom"
    id: str | None
    name: str | None


class CustomImage(CustomHead):
    image_url: str | None


class Preset(Answer):
    type: Literal["runway-preset"] = "runway-preset"
    preset_id: str


class ConversationHead(Answer):
    id: str
    name: str
    avatar: PresetHead | CustomHead
    created_at: Time
    duration: int | None
    has_tools: bool
    status: Literal["in_progress", "ended", "failed"]


class ToolSummary(Answer):
    type: Literal["client_event", "backend_rpc"]
    name: str
    description: str


class Line(Answer):
    """Of a transcript."""

    role: Literal["user", "assistant"]
    content: str | None
    timestamp: Time
    tool_calls: list[dict[str, Any]]
    tool_results: list[dict[str, Any]]


class Conversation(Answer):
    id: str
    name: str
    avatar: Preset | CustomImage
    created_at: Time
    started_at: Time | None
    duration: int | None
    max_duration: int
    recording_url: None = None
    tools: list[ToolSummary]
    transcript: list[Line]
    status: Literal["in_progress"]


class EndedConversation(Conversation):
    status: Literal["ended"]  # pyright: ignore[reportIncompatibleVariableOverride]
    ended_at: Time | None


class FailedConversation(Conversation):
    status: Literal["failed"]  # pyright: ignore[reportIncompatibleVariableOverride]
    ended_at: Time | None
    failure: str
    failure_code: str
