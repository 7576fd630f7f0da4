"""What clients are answered: every field is there, and what has no value is null."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, PlainSerializer, TypeAdapter
from pydantic.alias_generators import to_camel

from serve.runway_api.requests import VisionMode


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Time = Annotated[datetime, PlainSerializer(_text, return_type=str)]


def time_of(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def time_or_none(ms: int | None) -> datetime | None:
    return None if ms is None else time_of(ms)


class Answer(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


def by_status(kinds: Any, values: dict[str, Any]) -> Any:
    """The one of several kinds of answers that has the status of `values`; what it does not have is left out."""
    return TypeAdapter(kinds).validate_python(values)


class Created(Answer):
    id: str


class Listed(Answer):
    """A page; `next_cursor` null: the last one."""

    data: list[Any]
    has_more: bool
    next_cursor: str | None


class AvatarPresetVoice(Answer):
    type: Literal["runway-live-preset"] = "runway-live-preset"
    preset_id: str
    name: str
    description: str


class AvatarBuiltInVoice(Answer):
    type: Literal["built-in"] = "built-in"
    name: str
    description: str


class BuiltInVoice(Answer):
    """A voice that runs here, and why it fits what was asked for."""

    name: str
    tts: str
    accent: str
    gender: str
    pitch_hz: float
    syllables_per_s: float
    brightness_hz: int
    score: float
    reasons: list[str]


class AvatarCustomVoice(Answer):
    type: Literal["custom"] = "custom"
    id: str
    deleted: bool
    name: str | None = None
    description: str | None = None


class Avatar(Answer):
    id: str
    name: str
    personality: str
    start_script: str | None
    voice: AvatarPresetVoice | AvatarBuiltInVoice | AvatarCustomVoice
    reference_image_uri: str | None
    processed_image_uri: str | None
    document_ids: list[str]
    tools: list[dict[str, Any]]
    vision: VisionMode
    created_at: Time
    updated_at: Time
    status: Literal["PROCESSING", "READY"]


class FailedAvatar(Avatar):
    status: Literal["FAILED"]  # pyright: ignore[reportIncompatibleVariableOverride]
    failure_reason: str


AnyAvatar = Avatar | FailedAvatar


class DayUsage(Answer):
    date: str
    sessions: int
    seconds: int


class AvatarUsage(Answer):
    total_sessions: int
    total_seconds: int
    avg_duration_seconds: int
    by_day: list[DayUsage]


class UsedBy(Answer):
    id: str
    name: str
    image_url: str | None


class DocumentHead(Answer):
    id: str
    name: str
    type: Literal["text"] = "text"
    used_by: list[UsedBy]
    created_at: Time
    updated_at: Time


class Document(DocumentHead):
    content: str


class Rights(Answer):
    """What whoever uploaded a sample has stated."""

    statement: str
    stated_at: Time


class Voice(Answer):
    id: str
    name: str
    description: str | None
    created_at: Time
    basis: str | None = None  # how it was chosen or made, whatever its description says
    rights: Rights | None = None  # of voices of a sample
    status: Literal["PROCESSING"]


class ReadyVoice(Voice):
    status: Literal["READY"]  # pyright: ignore[reportIncompatibleVariableOverride]
    preview_url: str | None


class FailedVoice(Voice):
    status: Literal["FAILED"]  # pyright: ignore[reportIncompatibleVariableOverride]
    failure_reason: str


AnyVoice = Voice | ReadyVoice | FailedVoice


class VoicePreview(Answer):
    url: str
    duration_secs: float


class WaitingSession(Answer):
    id: str
    created_at: Time
    status: Literal["NOT_READY"]
    queued: bool


class ReadySession(Answer):
    id: str
    created_at: Time
    status: Literal["READY"]
    expires_at: Time
    session_key: str


class PlainSession(Answer):
    id: str
    created_at: Time
    status: Literal["RUNNING", "CANCELLED"]


class CompletedSession(Answer):
    id: str
    created_at: Time
    status: Literal["COMPLETED"]
    duration: int


class FailedSession(Answer):
    id: str
    created_at: Time
    status: Literal["FAILED"]
    failure: str
    failure_code: str


class Room(Answer):
    """Where the conversation takes place, and what opens it, once."""

    url: str
    token: str
    room_name: str


class Meeting(Answer):
    id: str
    status: Literal["PENDING", "JOINING", "RUNNING", "LEAVING", "ENDED", "FAILED"]
    provider: str
    meeting_url: str
    bot_name: str
    bot_id: str | None  # at the provider
    session_id: str | None  # since the bot has opened its page; also the conversation's
    created_at: Time
    ended_at: Time | None
    failure: str | None
    failure_code: str | None


class MeetingRoom(Answer):
    """What the page of a meeting's bot is answered."""

    status: Literal["NOT_READY", "READY", "ENDED"]
    room: Room | None = None  # when READY
    failure: str | None = None


class WidgetAvatar(Answer):
    """Whom a page's visitors may talk to."""

    name: str
    image_url: str | None  # null: the picture is still being read, or could not be
    tools: list[str]  # names of the tools that act on the page


class Cost(Answer):
    credits: float = 0.0


class Task(Answer):
    id: str
    created_at: Time
    status: Literal["PENDING"]
    estimated_cost: Cost = Cost()


class RunningTask(Answer):
    id: str
    created_at: Time
    status: Literal["RUNNING"]
    progress: float
    estimated_cost: Cost = Cost()


class SucceededTask(Answer):
    id: str
    created_at: Time
    status: Literal["SUCCEEDED"]
    output: list[str]
    cost: Cost = Cost()


class CancelledTask(Answer):
    id: str
    created_at: Time
    status: Literal["CANCELLED"]
    cost: Cost = Cost()


class FailedTask(Answer):
    id: str
    created_at: Time
    status: Literal["FAILED"]
    failure: str
    failure_code: str
    cost: Cost = Cost()


class Upload(Answer):
    runway_uri: str
    upload_url: str
    fields: dict[str, str]


class ModelLimit(Answer):
    max_concurrent_generations: int
    max_daily_generations: int


class ModelUse(Answer):
    daily_generations: int


class Tier(Answer):
    max_monthly_credit_spend: int
    models: dict[str, ModelLimit]


class Use(Answer):
    models: dict[str, ModelUse]


class Organization(Answer):
    """Nothing is paid for here: credits are 0 throughout."""

    credit_balance: int = 0
    tier: Tier
    usage: Use


class CreditDay(Answer):
    date: str
    used_credits: list[dict[str, Any]]


class CreditUsage(Answer):
    models: list[str]
    results: list[CreditDay]
