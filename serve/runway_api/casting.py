"""Who plays: of a session or a film, the character that is put together from an avatar and its documents."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session as Db
from sqlalchemy.orm import undefer

from serve.live.speech.voice_choice import built_in, wish_of
from serve.live.vision.sight import EVERY_SECOND
from serve.runway_api.call import ApiError, not_found
from serve.runway_api.presets import VOICE_PRESETS, character_of
from serve.store.tables import Avatar, File, Voice


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
    vision: str = EVERY_SECOND  # how often it may look at what visitors show


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
        personality=avatar.personality,
        start_script=avatar.start_script,
        voice=wish_for(db, avatar.voice),
        picture=db.get_one(File, avatar.reference_id, options=[undefer(File.data)]).data,
        crops_to_face=avatar.crops_to_face,
        vision=avatar.vision,
    )


def wish_for(db: Db, voice: dict[str, Any]) -> dict[str, Any] | None:
    """As a character's `voice`; None, the server's own, for a custom voice that is gone or not ready."""
    if voice["type"] == "built-in":
        return wish_of(built_in(voice["name"]))
    if voice["type"] != "custom":
        return VOICE_PRESETS[voice["preset_id"]].wish
    row = db.get(Voice, voice["id"])
    return row.wish if row is not None and row.status == "READY" else None
