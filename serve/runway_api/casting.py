"""Who plays: of a session or a film, the character that is put together from an avatar and its documents."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session as Db
from sqlalchemy.orm import undefer

from serve.runway_api.errors import ApiError, not_found
from serve.runway_api.presets import VOICE_PRESETS, character_of
from serve.store.tables import Avatar, AvatarDocument, Document, File, Voice

KNOWLEDGE = "What you know, besides what everybody knows:"
KNOWN_CHARS = 16_000  # about 4,000 tokens; more would make every answer slow


class NotReadyError(Exception):
    """The avatar's picture is still being read."""


@dataclass(frozen=True, slots=True)
class Role:
    """A character before its picture is decoded."""

    builtin: str | None  # key of the built-in character that it is; None: an avatar
    name: str
    personality: str
    start_script: str | None
    voice: dict[str, Any] | None
    picture: bytes
    crops_to_face: bool


def role_of(db: Db, *, preset: str | None, avatar_id: str | None, characters: list[str]) -> Role:
    """The role of a preset or of an avatar: name, personality, picture and voice.

    Raises:
        NotReadyError: the avatar is PROCESSING.
        ApiError: it has failed, or is not there any more.
    """
    if preset is not None:
        key = character_of(preset, characters)
        if key is None:
            raise ApiError(404, f"There is no preset avatar {preset}.")
        return Role(key, "", "", None, None, b"", True)
    avatar = db.get(Avatar, avatar_id) if avatar_id else None
    if avatar is None:
        raise not_found("avatar")
    if avatar.status == "PROCESSING":
        raise NotReadyError
    if avatar.status == "FAILED" or avatar.reference_id is None:
        raise ApiError(409, f"The avatar has no picture: {avatar.failure}")
    return Role(
        builtin=None,
        name=avatar.name,
        personality=with_knowledge(avatar.personality, _documents(db, avatar.id)),
        start_script=avatar.start_script,
        voice=wish_for(db, avatar.voice),
        picture=db.get_one(File, avatar.reference_id, options=[undefer(File.data)]).data,
        crops_to_face=avatar.crops_to_face,
    )


def wish_for(db: Db, voice: dict[str, Any]) -> dict[str, Any] | None:
    """As a character's `voice`; None, the server's own, for a custom voice that is gone or not ready."""
    if voice["type"] != "custom":
        return VOICE_PRESETS[voice["preset_id"]].wish
    row = db.get(Voice, voice["id"])
    return row.wish if row is not None and row.status == "READY" else None


def with_knowledge(personality: str, documents: list[tuple[str, str]]) -> str:
    """The instruction of a language model: the personality, and documents by name and content as far as they fit."""
    parts, left = [], KNOWN_CHARS
    for name, content in documents:
        if left <= 0:
            break
        parts.append(f"# {name}\n{content[:left]}")
        left -= len(content)
    return "\n\n".join([personality, KNOWLEDGE, *parts]) if parts else personality


def _documents(db: Db, avatar_id: str) -> list[tuple[str, str]]:
    query = select(Document.name, Document.content).join(AvatarDocument)
    found = db.execute(query.where(AvatarDocument.avatar_id == avatar_id).order_by(AvatarDocument.position))
    return [(name, content) for name, content in found]
