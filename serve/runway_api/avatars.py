"""Avatars: a picture, a voice, a personality, and documents. The picture is read in the background."""

from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import delete, select
from sqlalchemy.orm import Session as Db

from serve.live.speech.voice_choice import built_in, described
from serve.runway_api import answers
from serve.runway_api.answers import (
    AvatarBuiltInVoice,
    AvatarCustomVoice,
    AvatarPresetVoice,
    Listed,
    by_status,
    time_of,
)
from serve.runway_api.call import ApiError, Call, not_found
from serve.runway_api.presets import VOICE_PRESETS
from serve.runway_api.requests import (
    AnyTool,
    AvatarChange,
    AvatarRequest,
    CustomVoice,
    NoQuery,
    PageQuery,
    VoiceChoice,
)
from serve.store.pages import read_page
from serve.store.tables import Avatar, AvatarDocument, Document, File, Voice, now_ms


def create(db: Db, call: Call, query: NoQuery, body: AvatarRequest) -> answers.Avatar:
    avatar = Avatar(
        name=body.name,
        personality=body.personality,
        start_script=body.start_script,
        voice=checked_voice(db, body.voice),
        image=body.reference_image,
        crops_to_face=body.image_processing == "optimize",
        tools=[tool.model_dump() for tool in body.tools],
        vision=body.vision,
        status="PROCESSING",
        links=_links(db, body.document_ids),
    )
    db.add(avatar)
    db.flush()
    return shown(db, call, [avatar])[0]


def read(db: Db, call: Call, query: NoQuery, body: None) -> answers.Avatar:
    return shown(db, call, [found(db, call.id)])[0]


def change(db: Db, call: Call, query: NoQuery, body: AvatarChange) -> answers.Avatar:
    avatar = found(db, call.id)
    if body.reference_image is not None or body.image_processing is not None:
        _change_image(avatar, body)
    avatar.name, avatar.personality = body.name or avatar.name, body.personality or avatar.personality
    if "start_script" in body.model_fields_set:
        avatar.start_script = body.start_script or None
    if body.voice is not None:
        avatar.voice = checked_voice(db, body.voice)
    if body.tools is not None:
        avatar.tools = [tool.model_dump() for tool in body.tools]
    avatar.vision = body.vision or avatar.vision
    if body.document_ids is not None:
        avatar.links.clear()
        db.flush()  # the old ones go before the new ones come
        avatar.links.extend(_links(db, body.document_ids))
    avatar.updated_ms = now_ms()
    db.flush()
    return shown(db, call, [avatar])[0]


def remove(db: Db, call: Call, query: NoQuery, body: None) -> None:
    avatar = found(db, call.id)
    files = [one for one in (avatar.reference_id, avatar.processed_id) if one is not None]
    db.delete(avatar)
    db.flush()
    db.execute(delete(File).where(File.id.in_(files)))


def list_all(db: Db, call: Call, query: PageQuery, body: None) -> Listed:
    page = read_page(db, select(Avatar), Avatar.created_ms, cursor=query.cursor, limit=query.limit)
    data = shown(db, call, page.rows)
    return Listed(data=data, has_more=page.next_cursor is not None, next_cursor=page.next_cursor)


def found(db: Db, avatar_id: str) -> Avatar:
    avatar = db.get(Avatar, avatar_id)
    if avatar is None:
        raise not_found("avatar")
    return avatar


def checked_voice(db: Db, voice: VoiceChoice) -> dict[str, Any]:
    """The voice as it is stored.

    Raises:
        ApiError: there is no such custom voice.
    """
    if isinstance(voice, CustomVoice) and db.get(Voice, voice.id) is None:
        raise not_found("voice")
    return voice.model_dump()


def shown(db: Db, call: Call, avatars: list[Avatar]) -> list[answers.Avatar]:
    custom = {avatar.voice["id"] for avatar in avatars if avatar.voice["type"] == "custom"}
    voices = {voice.id: voice for voice in db.scalars(select(Voice).where(Voice.id.in_(custom)))}
    return [_shown(call, avatar, voices) for avatar in avatars]


def _shown(call: Call, avatar: Avatar, voices: dict[str, Voice]) -> answers.Avatar:
    values = {
        "id": avatar.id,
        "name": avatar.name,
        "personality": avatar.personality,
        "start_script": avatar.start_script,
        "voice": _shown_voice(call, avatar.voice, voices),
        "reference_image_uri": call.file_url(avatar.reference_id),
        "processed_image_uri": call.file_url(avatar.processed_id),
        "tools": [shape_of(tool) for tool in avatar.tools],
        "vision": avatar.vision,
        "document_ids": [link.document_id for link in avatar.links],
        "created_at": time_of(avatar.created_ms),
        "updated_at": time_of(avatar.updated_ms),
        "status": avatar.status,
        "failure_reason": avatar.failure or "",
    }
    return by_status(answers.AnyAvatar, values)


def shape_of(tool: dict[str, Any]) -> dict[str, Any]:
    """A stored tool as clients send it."""
    return TypeAdapter(AnyTool).validate_python(tool).model_dump(by_alias=True)


def _shown_voice(
    call: Call, voice: dict[str, Any], voices: dict[str, Voice]
) -> AvatarPresetVoice | AvatarBuiltInVoice | AvatarCustomVoice:
    if voice["type"] == "custom":
        if voice["id"] not in voices:
            return AvatarCustomVoice(id=voice["id"], deleted=True)
        row = voices[voice["id"]]
        return AvatarCustomVoice(id=row.id, deleted=False, name=row.name, description=row.description)
    if voice["type"] == "built-in":
        return AvatarBuiltInVoice(name=voice["name"], description=described(built_in(voice["name"])))
    preset = voice["preset_id"]
    description = VOICE_PRESETS[preset].description(call.desk.speech.tts)
    return AvatarPresetVoice(preset_id=preset, name=preset.capitalize(), description=description)


def _links(db: Db, ids: list[str]) -> list[AvatarDocument]:
    wanted = list(dict.fromkeys(ids))
    known = set(db.scalars(select(Document.id).where(Document.id.in_(wanted))))
    if missing := [one for one in wanted if one not in known]:
        raise ApiError(404, f"There is no document of the id {missing[0]}.")
    return [AvatarDocument(document_id=one, position=place) for place, one in enumerate(wanted)]


def _change_image(avatar: Avatar, body: AvatarChange) -> None:
    if avatar.status == "PROCESSING":
        raise ApiError(409, "The picture is being read. Wait until the status is READY, then change it.")
    avatar.image = body.reference_image or avatar.image
    avatar.crops_to_face = (body.image_processing or "optimize") == "optimize"
    avatar.status, avatar.failure, avatar.owner = "PROCESSING", None, None
