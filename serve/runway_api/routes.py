"""Every request that is answered: its path, what it sends, who may send it, and the function that answers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from serve.runway_api import (
    answers,
    avatars,
    conversations,
    documents,
    film_requests,
    meetings,
    organization,
    requests,
    sessions,
    uploads,
    videos,
    voices,
    widget,
)
from serve.runway_api.call import Stored
from serve.runway_api.requests import INLINE_CHARS, NoQuery, PageQuery

SMALL_BYTES, TEXT_BYTES, MEDIA_BYTES = 256_000, 1_500_000, INLINE_CHARS + 200_000
FILM_BYTES = 3 * INLINE_CHARS + 200_000  # film, mask and picture, or film and sound

# secret: a secret key; page: a publishable one too, of an origin that it allows; session: a session's own key.
Access = Literal["secret", "page", "session", "open"]


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    work: Callable[..., Any]  # of database, call, query and body
    answer: Any = None  # its type; None: 204 without a body
    body: type[BaseModel] | None = None
    query: type[BaseModel] = NoQuery
    access: Access = "secret"
    max_bytes: int = SMALL_BYTES
    # What takes long and is made first, of call and body: `work` is given it too, and the store is free meanwhile.
    prepare: Callable[..., Any] | None = None

    @property
    def writes(self) -> bool:
        return self.method != "GET"


AVATAR, VOICE = answers.AnyAvatar, answers.AnyVoice
CONVERSATION = conversations.AnyConversation
LISTED = answers.Listed

ROUTES = (
    Route("POST", "/avatars", avatars.create, AVATAR, requests.AvatarRequest, max_bytes=MEDIA_BYTES),
    Route("GET", "/avatars", avatars.list_all, LISTED, query=PageQuery),
    Route("GET", "/avatars/{id}", avatars.read, AVATAR),
    Route("PATCH", "/avatars/{id}", avatars.change, AVATAR, requests.AvatarChange, max_bytes=MEDIA_BYTES),
    Route("DELETE", "/avatars/{id}", avatars.remove),
    Route("GET", "/avatar_usage", conversations.usage, answers.AvatarUsage, query=requests.DaysQuery),
    Route("POST", "/documents", documents.create, answers.Document, requests.DocumentRequest, max_bytes=TEXT_BYTES),
    Route("GET", "/documents", documents.list_all, LISTED, query=requests.DocumentQuery),
    Route("GET", "/documents/{id}", documents.read, answers.Document),
    Route("PATCH", "/documents/{id}", documents.change, None, requests.DocumentChange, max_bytes=TEXT_BYTES),
    Route("DELETE", "/documents/{id}", documents.remove),
    Route("POST", "/voices", voices.create, answers.Created, requests.VoiceRequest, max_bytes=MEDIA_BYTES),
    Route("GET", "/voices", voices.list_all, LISTED, query=PageQuery),
    Route(
        "POST",
        "/voices/preview",
        voices.try_out,
        answers.VoicePreview,
        requests.VoicePreviewRequest,
        prepare=voices.spoken,
    ),
    Route("GET", "/built_in_voices", voices.built_ins, LISTED, query=requests.BuiltInQuery),
    Route("GET", "/voices/{id}", voices.read, VOICE),
    Route("PATCH", "/voices/{id}", voices.change, VOICE, requests.VoiceChange),
    Route("DELETE", "/voices/{id}", voices.remove),
    Route("POST", "/realtime_sessions", sessions.create, answers.Created, requests.SessionRequest, access="page"),
    Route("GET", "/realtime_sessions/{id}", sessions.read, sessions.AnySession, access="page"),
    Route("DELETE", "/realtime_sessions/{id}", sessions.cancel, access="page"),
    Route("POST", "/realtime_sessions/{id}/consume", sessions.consume, answers.Room, access="session"),
    Route("POST", "/realtime_sessions/{id}/connect_backend", sessions.connect_backend, answers.Room),
    Route("POST", "/meetings", meetings.create, answers.Created, requests.MeetingRequest),
    Route("GET", "/meetings", meetings.list_all, LISTED, query=PageQuery),
    Route("GET", "/meetings/{id}", meetings.read, answers.Meeting),
    Route("DELETE", "/meetings/{id}", meetings.leave),
    Route("POST", "/meetings/{id}/join", meetings.join, answers.MeetingRoom, requests.JoinRequest, access="session"),
    Route("GET", "/widget/{avatar}", widget.read, answers.WidgetAvatar, access="page"),
    Route("GET", "/avatar_conversations", conversations.list_all, LISTED, query=requests.ConversationQuery),
    Route("GET", "/avatar_conversations/{id}", conversations.read, CONVERSATION),
    Route("DELETE", "/avatar_conversations/{id}", conversations.remove),
    Route("POST", "/avatar_videos", videos.create, answers.Created, requests.VideoRequest, max_bytes=MEDIA_BYTES),
    Route("POST", "/video_dubs", videos.dub, answers.Created, film_requests.VideoDubRequest, max_bytes=FILM_BYTES),
    Route("POST", "/video_edits", videos.edit, answers.Created, film_requests.VideoEditRequest, max_bytes=FILM_BYTES),
    Route("GET", "/tasks/{id}", videos.read, videos.AnyTask),
    Route("DELETE", "/tasks/{id}", videos.cancel),
    Route("POST", "/uploads", uploads.create, answers.Upload, requests.UploadRequest),
    Route("GET", "/files/{id}", uploads.fetch_file, Stored, access="open"),
    Route("GET", "/organization", organization.read, answers.Organization),
    Route("POST", "/organization/usage", organization.usage, answers.CreditUsage, requests.UsageRequest),
)
