"""Tables of the store: avatars, documents, voices, files, sessions with their transcripts, tasks, API keys.

Times are milliseconds since 1970 (UTC). Ids are UUIDs of version 4. What belongs to one row alone goes with it.
"""

import time
import uuid
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

ID_CHARS = 36


def new_id() -> str:
    return str(uuid.uuid4())


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Table(DeclarativeBase):
    type_annotation_map: ClassVar = {
        dict[str, Any]: JSON,
        list[dict[str, Any]]: JSON,
        list[str]: JSON,
        bytes: LargeBinary,
    }


class Named(Table):
    """What has an id, and a place in lists by its time."""

    __abstract__ = True
    id: Mapped[str] = mapped_column(String(ID_CHARS), primary_key=True, default=new_id)
    created_ms: Mapped[int] = mapped_column(BigInteger, default=now_ms, index=True)


class ApiKey(Named):
    """A key that was given out; the key itself is nowhere."""

    __tablename__ = "api_keys"
    name: Mapped[str] = mapped_column(String(100))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    prefix: Mapped[str] = mapped_column(String(16))  # for people who look for it in a list
    origins: Mapped[list[str]]  # pages that may use it; empty: a secret key, for servers
    max_sessions: Mapped[int | None]  # at once; None: as many as there is room for
    max_session_s: Mapped[int | None]
    requests_per_minute: Mapped[int | None]  # of one visitor
    sessions_per_visitor: Mapped[int | None]  # at once, of one address
    sessions_per_origin: Mapped[int | None]  # at once, of one page that may use the key
    revoked_ms: Mapped[int | None] = mapped_column(BigInteger)


class File(Named):
    """Bytes of a picture, sound or film. Whoever knows the id may fetch one with `public`."""

    __tablename__ = "files"
    content_type: Mapped[str] = mapped_column(String(100))
    data: Mapped[bytes] = mapped_column(deferred=True)
    public: Mapped[bool]
    expires_ms: Mapped[int | None] = mapped_column(BigInteger, index=True)  # None: goes with what uses it


class Piece(Table):
    """A part of a file that is never in memory as a whole: its own `data` is empty."""

    __tablename__ = "pieces"
    file_id: Mapped[str] = mapped_column(ForeignKey("files.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[bytes]


class Upload(Named):
    """A place for a file that a client is about to send."""

    __tablename__ = "uploads"
    filename: Mapped[str] = mapped_column(String(255))
    secret_sha256: Mapped[str | None] = mapped_column(String(64))  # None: it was used
    file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id", ondelete="SET NULL"))
    expires_ms: Mapped[int] = mapped_column(BigInteger, index=True)


class AvatarDocument(Table):
    """Which documents an avatar knows."""

    __tablename__ = "avatar_documents"
    avatar_id: Mapped[str] = mapped_column(ForeignKey("avatars.id", ondelete="CASCADE"), primary_key=True)
    document_id: Mapped[str] = mapped_column(
        ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    position: Mapped[int]


class Work(Named):
    """What is made in the background: `owner` is the server that makes it, `alive_ms` when that was last heard of."""

    __abstract__ = True
    status: Mapped[str] = mapped_column(String(16), index=True)
    failure: Mapped[str | None] = mapped_column(Text)
    owner: Mapped[str | None] = mapped_column(String(ID_CHARS))
    alive_ms: Mapped[int] = mapped_column(BigInteger, default=now_ms)


class Avatar(Work):
    __tablename__ = "avatars"
    name: Mapped[str] = mapped_column(String(50))
    personality: Mapped[str] = mapped_column(Text)
    start_script: Mapped[str | None] = mapped_column(Text)
    voice: Mapped[dict[str, Any]]  # as the request has it
    image: Mapped[str] = mapped_column(Text)  # where the picture comes from; empty once it is read
    crops_to_face: Mapped[bool]
    tools: Mapped[list[dict[str, Any]]] = mapped_column(default=list)  # of its sessions that name none; as requested
    vision: Mapped[str] = mapped_column(String(16), default="every_second")  # how often it looks at what visitors show
    reference_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    processed_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    updated_ms: Mapped[int] = mapped_column(BigInteger, default=now_ms)
    links: Mapped[list[AvatarDocument]] = relationship(
        order_by=AvatarDocument.position, cascade="all, delete-orphan", lazy="selectin"
    )


class Document(Named):
    __tablename__ = "documents"
    name: Mapped[str] = mapped_column(String(255))
    content: Mapped[str] = mapped_column(Text, deferred=True)
    updated_ms: Mapped[int] = mapped_column(BigInteger, default=now_ms, index=True)


class PassageVectors(Table):
    """What the passages of a document mean (`serve.runway_api.document_search`)."""

    __tablename__ = "passage_vectors"
    document_id: Mapped[str] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True)
    network: Mapped[str | None] = mapped_column(String(64), index=True)  # that made them; None: they are to be made
    vectors: Mapped[bytes] = mapped_column(default=b"")


class Voice(Work):
    __tablename__ = "voices"
    name: Mapped[str] = mapped_column(String(100))
    description: Mapped[str | None] = mapped_column(Text)
    source: Mapped[dict[str, Any]]  # as the request has it; a sound only until it is read
    wish: Mapped[dict[str, Any]]  # for each kind of voices, as a character's `voice`; empty while PROCESSING
    preview_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))


class Session(Work):
    """A realtime session, and the conversation that it is afterwards."""

    __tablename__ = "sessions"
    key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id", ondelete="SET NULL"), index=True)
    preset: Mapped[str | None] = mapped_column(String(100))
    avatar_id: Mapped[str | None] = mapped_column(ForeignKey("avatars.id", ondelete="SET NULL"), index=True)
    avatar_name: Mapped[str] = mapped_column(String(100))
    personality: Mapped[str | None] = mapped_column(Text)
    start_script: Mapped[str | None] = mapped_column(Text)
    tools: Mapped[list[dict[str, Any]]]
    integration: Mapped[str | None] = mapped_column(String(32))
    vision: Mapped[str | None] = mapped_column(String(16))  # None: as often as its avatar may look
    max_s: Mapped[int]
    queued: Mapped[bool] = mapped_column(default=False)
    session_key: Mapped[str | None] = mapped_column(String(100))  # while READY alone
    expires_ms: Mapped[int | None] = mapped_column(BigInteger)
    room: Mapped[dict[str, Any]] = mapped_column(default=dict)  # of `consume`, while READY; in a fleet then its place
    failure_code: Mapped[str | None] = mapped_column(String(64))
    started_ms: Mapped[int | None] = mapped_column(BigInteger)
    ended_ms: Mapped[int | None] = mapped_column(BigInteger)
    visitor: Mapped[str | None] = mapped_column(String(64))  # SHA-256 of key and address, until the end; of pages alone
    origin: Mapped[str | None] = mapped_column(String(255))  # of the page that asked for it


class Entry(Table):
    """A line of a transcript."""

    __tablename__ = "entries"
    __table_args__ = (UniqueConstraint("session_id", "position"),)
    id: Mapped[str] = mapped_column(String(ID_CHARS), primary_key=True, default=new_id)
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"))
    position: Mapped[int]
    at_ms: Mapped[int] = mapped_column(BigInteger, default=now_ms)
    role: Mapped[str] = mapped_column(String(16))
    content: Mapped[str | None] = mapped_column(Text)
    tool_calls: Mapped[list[dict[str, Any]]] = mapped_column(default=list)
    tool_results: Mapped[list[dict[str, Any]]] = mapped_column(default=list)


class Task(Work):
    """A film that is asked for: of an avatar, or made of another film."""

    __tablename__ = "tasks"
    request: Mapped[dict[str, Any]]
    progress: Mapped[float] = mapped_column(default=0.0)
    output_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    failure_code: Mapped[str | None] = mapped_column(String(64))


class Meeting(Work):
    """A bot that a service sends into a meeting, where it shows our page: the character is its camera and its voice."""

    __tablename__ = "meetings"
    provider: Mapped[str] = mapped_column(String(16))
    url: Mapped[str] = mapped_column(Text)  # of the meeting
    bot_name: Mapped[str] = mapped_column(String(100))
    request: Mapped[dict[str, Any]]  # for its session
    base_url: Mapped[str] = mapped_column(Text)  # of this server, as the bot's browser sees it
    token_sha256: Mapped[str | None] = mapped_column(String(64))  # what opens the page; None: nobody has it
    bot_id: Mapped[str | None] = mapped_column(String(100))
    session_id: Mapped[str | None] = mapped_column(ForeignKey("sessions.id", ondelete="SET NULL"), index=True)
    joins: Mapped[int] = mapped_column(default=0)  # how often the page was loaded
    open_until_ms: Mapped[int] = mapped_column(BigInteger)  # for the page
    failure_code: Mapped[str | None] = mapped_column(String(64))
    ended_ms: Mapped[int | None] = mapped_column(BigInteger)


Index("sessions_by_status_and_owner", Session.status, Session.owner)
