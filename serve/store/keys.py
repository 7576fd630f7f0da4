"""API keys: shown once when they are made, and stored as a hash."""

import hashlib
import secrets
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

from sqlalchemy import select
from sqlalchemy.orm import Session

from serve.store.tables import ApiKey, now_ms

SECRET, PUBLISHABLE = "key_", "pub_"
PREFIX_CHARS = 12
BYTES = 64
PUBLISHABLE_SESSIONS, PUBLISHABLE_SESSION_S, PUBLISHABLE_REQUESTS = 2, 300, 60
VISITOR_SESSIONS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a key may be used for; without origins it is secret: for servers, and for everything.

    Raises:
        ValueError: an origin has a path, or a number is below 1.
    """

    origins: list[str]
    max_sessions: int | None = None
    max_session_s: int | None = None
    requests_per_minute: int | None = None
    sessions_per_visitor: int | None = None
    sessions_per_origin: int | None = None

    def __post_init__(self) -> None:
        for origin in self.origins:
            parts = urlsplit(origin)
            if origin != f"{parts.scheme}://{parts.netloc}" or parts.scheme not in ("http", "https"):
                raise ValueError(f"origins has {origin!r}, must have such as https://example.org, without a path.")
        for name, value in asdict(self).items():
            if name != "origins" and value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1. Use null for no limit.")


def publishable(origins: list[str]) -> Limits:
    """For pages of these origins, with limits that one page needs."""
    return Limits(
        origins=origins,
        max_sessions=PUBLISHABLE_SESSIONS,
        max_session_s=PUBLISHABLE_SESSION_S,
        requests_per_minute=PUBLISHABLE_REQUESTS,
        sessions_per_visitor=VISITOR_SESSIONS,
    )


def digest(text: str) -> str:
    """Keys are 512 random bits: a slow hash would protect nothing more."""
    return hashlib.sha256(text.encode()).hexdigest()


def add_key(db: Session, name: str, limits: Limits, *, text: str | None = None) -> str:
    """Store a key and return its text, which can be had nowhere else. text: a key that was made elsewhere."""
    text = text or (PUBLISHABLE if limits.origins else SECRET) + secrets.token_hex(BYTES)
    db.add(ApiKey(name=name, sha256=digest(text), prefix=text[:PREFIX_CHARS], **asdict(limits)))
    return text


def find_key(db: Session, text: str) -> ApiKey | None:
    """The key with this text, unless it was revoked."""
    return db.scalar(select(ApiKey).where(ApiKey.sha256 == digest(text), ApiKey.revoked_ms.is_(None)))


def list_keys(db: Session) -> list[ApiKey]:
    return list(db.scalars(select(ApiKey).order_by(ApiKey.created_ms)))


def revoke_key(db: Session, key_id: str) -> None:
    """From now on nobody gets in with it.

    Raises:
        ValueError: there is no such key.
    """
    key = db.get(ApiKey, key_id)
    if key is None:
        raise ValueError(f"id={key_id} must be the id of a key. See them with: python -m serve.keys")
    key.revoked_ms = key.revoked_ms or now_ms()
