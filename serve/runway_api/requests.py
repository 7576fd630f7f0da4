"""What clients send, with the limits of Runway's public API."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator
from pydantic.alias_generators import to_camel

from serve.live.speech.voice_choice import built_in
from serve.runway_api.presets import VOICE_PRESETS

INLINE_CHARS, UPLOADED_CHARS, URL_CHARS = 5_242_880, 5_000, 2_048
MODEL = "gwm1_avatars"
VoiceModel = Literal["eleven_ttv_v3", "eleven_multilingual_ttv_v2"]
UUID = r"^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$"
Uuid = Annotated[str, Field(pattern=UUID)]
ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$", max_length=64)]
Described = Annotated[str, Field(min_length=1, max_length=1024)]


class Shape(BaseModel):
    """camelCase outside, snake_case inside; unknown fields are left out, as newer clients send them."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


def check_media(*kinds: str):
    """A validator of where a picture (`image`), sound (`audio`) or film (`video`) comes from."""

    def check(value: str) -> str:
        inline = {f"data:{kind}/": INLINE_CHARS for kind in kinds}
        limits = inline | {"runway://": UPLOADED_CHARS, "https://": URL_CHARS}
        for begin, max_chars in limits.items():
            if value.startswith(begin):
                if not 13 <= len(value) <= max_chars:
                    raise ValueError(f"must have 13 to {max_chars} characters, has {len(value)}")
                return value
        raise ValueError(f"must begin with {', '.join(limits)}")

    return AfterValidator(check)


def _in_range(time: datetime) -> datetime:
    if not 1970 <= time.year < 3000:
        raise ValueError(f"year {time.year} must be in [1970, 3000)")
    return time


Moment = Annotated[datetime, AfterValidator(_in_range)]  # far from where a day more or another zone leaves the calendar


ImageSource = Annotated[str, check_media("image")]
AudioSource = Annotated[str, check_media("audio")]
VideoSource = Annotated[str, check_media("video")]


class PresetVoice(Shape):
    type: Literal["runway-live-preset", "preset"]
    preset_id: str = Field(json_schema_extra={"enum": list(VOICE_PRESETS)})

    @field_validator("preset_id")
    @classmethod
    def _exists(cls, value: str) -> str:
        if value not in VOICE_PRESETS:
            raise ValueError(f"must be one of {', '.join(VOICE_PRESETS)}")
        return value


class CustomVoice(Shape):
    type: Literal["custom"]
    id: Uuid


class BuiltInVoice(Shape):
    """One of this server's own, by the name that `/v1/built_in_voices` gives it."""

    type: Literal["built-in"]
    name: str = Field(max_length=100)

    @field_validator("name")
    @classmethod
    def _exists(cls, value: str) -> str:
        return built_in(value).label


VoiceChoice = Annotated[PresetVoice | CustomVoice | BuiltInVoice, Field(discriminator="type")]


class ScalarItems(Shape):
    type: Literal["string", "integer", "number", "boolean"]


class Parameter(Shape):
    """An argument of a tool; of an object's properties too."""

    name: str = Field(min_length=1, max_length=64)
    description: Described
    type: Literal["string", "integer", "number", "boolean", "array", "object"]
    required: bool = True
    enum: list[Annotated[str, Field(max_length=64)]] | None = Field(default=None, max_length=20)
    items: ScalarItems | None = None
    properties: list["Parameter"] | None = Field(default=None, max_length=20)


class ClientEvent(Shape):
    type: Literal["client_event"]
    name: ToolName
    description: Described
    parameters: list[Parameter] = Field(default_factory=list, max_length=20)


class BackendRpc(ClientEvent):
    type: Literal["backend_rpc"]  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout_seconds: float = Field(default=4, ge=1, le=8)


AnyTool = Annotated[
    Annotated[ClientEvent, Tag("client_event")] | Annotated[BackendRpc, Tag("backend_rpc")], Discriminator("type")
]
MAX_TOOLS = 20
VisionMode = Literal["off", "on_request", "every_second"]  # how often what a visitor shows may be looked at


class AvatarRequest(Shape):
    name: str = Field(min_length=1, max_length=50)
    personality: str = Field(min_length=1, max_length=10_000)
    reference_image: ImageSource
    voice: VoiceChoice
    start_script: str | None = Field(default=None, max_length=2_000)
    document_ids: list[Uuid] = Field(default_factory=list, max_length=50)
    image_processing: Literal["optimize", "none"] = "optimize"
    tools: list[AnyTool] = Field(default_factory=list, max_length=MAX_TOOLS)  # of sessions that name none
    vision: VisionMode = "every_second"


class AvatarChange(Shape):
    """Fields that are left out stay; an empty or null `startScript` deletes it."""

    name: str | None = Field(default=None, min_length=1, max_length=50)
    personality: str | None = Field(default=None, min_length=1, max_length=10_000)
    reference_image: ImageSource | None = None
    voice: VoiceChoice | None = None
    start_script: str | None = Field(default=None, max_length=2_000)
    document_ids: list[Uuid] | None = Field(default=None, max_length=50)
    image_processing: Literal["optimize", "none"] | None = None
    tools: list[AnyTool] | None = Field(default=None, max_length=MAX_TOOLS)
    vision: VisionMode | None = None


class DocumentRequest(Shape):
    name: str = Field(min_length=1, max_length=255)
    content: str = Field(min_length=1, max_length=200_000)


class DocumentChange(Shape):
    name: str | None = Field(default=None, min_length=1, max_length=255)
    content: str | None = Field(default=None, min_length=1, max_length=200_000)


class VoiceText(Shape):
    type: Literal["text"]
    prompt: str = Field(min_length=20, max_length=10_000)
    model: VoiceModel


class AudioUrl(Shape):
    url: AudioSource


class VoiceAudio(Shape):
    type: Literal["audio"]
    audio: AudioSource | AudioUrl
    # Why this voice may be used. Clients that know no such field may ask too: their voice is FAILED and says why.
    rights: str | None = Field(default=None, min_length=10, max_length=1_000)
    consent_id: str | None = Field(default=None, max_length=200)  # of a consent recorded at OpenAI, which clones by it

    @property
    def source(self) -> str:
        return self.audio if isinstance(self.audio, str) else self.audio.url


class VoiceRequest(Shape):
    name: str = Field(min_length=1, max_length=100)
    description: str | None = Field(default=None, min_length=1, max_length=1024)
    from_: Annotated[VoiceText | VoiceAudio, Field(discriminator="type")] = Field(alias="from")


class VoiceChange(Shape):
    name: str | None = Field(default=None, min_length=1, max_length=100)
    description: str | None = Field(default=None, min_length=1, max_length=1024)


class VoicePreviewRequest(Shape):
    """Of a voice that would be designed from a prompt, or of one that there is."""

    model: VoiceModel | None = None
    prompt: str | None = Field(default=None, min_length=20, max_length=10_000)
    voice: Annotated[PresetVoice | BuiltInVoice, Field(discriminator="type")] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> "VoicePreviewRequest":
        if (self.prompt is None) == (self.voice is None) or (self.prompt is not None and self.model is None):
            raise ValueError("must have model and prompt, or voice")
        return self


class PresetAvatar(Shape):
    type: Literal["runway-preset"]
    preset_id: str = Field(min_length=1, max_length=100)


class CustomAvatar(Shape):
    type: Literal["custom"]
    avatar_id: Uuid


AvatarChoice = Annotated[PresetAvatar | CustomAvatar, Field(discriminator="type")]


class LiveKitRoom(Shape):
    """A room elsewhere, which the avatar joins."""

    type: Literal["livekit"] = "livekit"
    url: str = Field(max_length=URL_CHARS)
    token: str = Field(max_length=2_048)
    room_name: str = Field(max_length=256)
    agent_identity: str | None = Field(default=None, max_length=256)


class ElevenLabs(Shape):
    type: Literal["elevenlabs"]
    signed_url: str = Field(max_length=URL_CHARS)


class SessionRequest(Shape):
    model: Literal["gwm1_avatars"]
    avatar: AvatarChoice
    max_duration: int = Field(default=300, ge=10, le=1800)
    personality: str | None = Field(default=None, min_length=1, max_length=10_000)
    start_script: str | None = Field(default=None, min_length=1, max_length=2_000)
    tools: list[AnyTool] = Field(default_factory=list, max_length=MAX_TOOLS)
    vision: VisionMode | None = None  # at most; None: as often as the avatar looks
    integration: Annotated[LiveKitRoom | ElevenLabs, Field(discriminator="type")] | None = None
    livekit: LiveKitRoom | None = None


class MeetingRequest(Shape):
    """Of a bot that joins a meeting, and of the session that it shows there."""

    provider: Literal["recall", "attendee"]
    meeting_url: str = Field(pattern=r"^https://\S+$", max_length=URL_CHARS)
    bot_name: str = Field(default="Character", min_length=1, max_length=100)
    avatar: AvatarChoice
    max_duration: int = Field(default=1800, ge=10, le=1800)
    personality: str | None = Field(default=None, min_length=1, max_length=10_000)
    start_script: str | None = Field(default=None, min_length=1, max_length=2_000)
    tools: list[AnyTool] = Field(default_factory=list, max_length=MAX_TOOLS)
    vision: VisionMode | None = None

    def session(self) -> SessionRequest:
        """What its session is asked for with; `tools` that are not named stay unnamed: the avatar's hold."""
        given = {name: getattr(self, name) for name in self.model_fields_set & SessionRequest.model_fields.keys()}
        return SessionRequest(**{"model": MODEL, "max_duration": self.max_duration} | given)


class JoinRequest(Shape):
    fresh: bool  # the page was just loaded: it has a session of its own, and the one before is over


class SpeechText(Shape):
    type: Literal["text"]
    text: str = Field(min_length=1, max_length=5_000)
    voice: VoiceChoice | None = None


class SpeechAudio(Shape):
    type: Literal["audio"]
    audio: AudioSource


class VideoRequest(Shape):
    model: Literal["gwm1_avatars"]
    avatar: AvatarChoice
    speech: Annotated[SpeechText | SpeechAudio, Field(discriminator="type")]


class UploadRequest(Shape):
    filename: str = Field(min_length=1, max_length=255)
    type: Literal["ephemeral"]


class UsageRequest(Shape):
    """Days, the last one excluded."""

    start_date: Moment | None = None
    before_date: Moment | None = None


class NoQuery(Shape):
    """Of requests without parameters."""


class PageQuery(Shape):
    cursor: str | None = Field(default=None, min_length=1, max_length=1000)
    limit: int = Field(default=50, ge=1, le=100)


class DocumentQuery(PageQuery):
    sort: Literal["createdAt", "updatedAt"] = "createdAt"
    order: Literal["asc", "desc"] = "desc"
    avatar_id: Uuid | None = None


class ConversationQuery(PageQuery):
    avatar: str | None = Field(default=None, max_length=100)  # id of an avatar, or of a preset
    start_date: Moment | None = None
    end_date: Moment | None = None


class BuiltInQuery(Shape):
    describe: str | None = Field(default=None, min_length=1, max_length=1_000)  # who should speak; None: all of them
    tts: Literal["piper", "kokoro", "espeak"] | None = None  # None: those that the server speaks with


class DaysQuery(Shape):
    start_date: Moment
    end_date: Moment
