"""Voices that people describe or bring a sample of; what they get is the nearest that this server has."""

from sqlalchemy import delete, select
from sqlalchemy.orm import Session as Db

from serve.runway_api import answers
from serve.runway_api.answers import Created, Listed, time_of
from serve.runway_api.call import Call
from serve.runway_api.errors import ApiError, not_found
from serve.runway_api.requests import NoQuery, PageQuery, VoiceAudio, VoiceChange, VoicePreviewRequest, VoiceRequest
from serve.runway_api.voice_design import designed, preview
from serve.store.pages import read_page
from serve.store.tables import File, Voice, now_ms

PREVIEW_MS = 24 * 3600 * 1000


def create(db: Db, call: Call, query: NoQuery, body: VoiceRequest) -> Created:
    made = body.from_
    source = {"audio": made.source} if isinstance(made, VoiceAudio) else {"prompt": made.prompt}
    voice = Voice(name=body.name, description=body.description, source=source, wish={}, status="PROCESSING")
    db.add(voice)
    db.flush()
    return Created(id=voice.id)


def read(db: Db, call: Call, query: NoQuery, body: None) -> answers.Voice:
    return _shown(call, found(db, call.id))


def change(db: Db, call: Call, query: NoQuery, body: VoiceChange) -> answers.Voice:
    voice = found(db, call.id)
    voice.name = body.name or voice.name
    if "description" in body.model_fields_set:
        voice.description = body.description
    return _shown(call, voice)


def remove(db: Db, call: Call, query: NoQuery, body: None) -> None:
    """Avatars that have it are shown it as deleted, and speak with the server's own."""
    voice = found(db, call.id)
    db.delete(voice)
    db.flush()
    if voice.preview_id is not None:
        db.execute(delete(File).where(File.id == voice.preview_id))


def list_all(db: Db, call: Call, query: PageQuery, body: None) -> Listed:
    page = read_page(db, select(Voice), Voice.created_ms, cursor=query.cursor, limit=query.limit)
    data = [_shown(call, row) for row in page.rows]
    return Listed(data=data, has_more=page.next_cursor is not None, next_cursor=page.next_cursor)


def try_out(db: Db, call: Call, query: NoQuery, body: VoicePreviewRequest) -> answers.VoicePreview:
    if call.desk.speak is None:
        raise ApiError(503, "Voices of an endpoint have no preview here. Set tts=piper or tts=espeak.")
    sound = preview(call.desk.speak, designed(body.prompt).wish)
    file = File(content_type="audio/mpeg", data=sound.mp3, public=True, expires_ms=now_ms() + PREVIEW_MS)
    db.add(file)
    db.flush()
    return answers.VoicePreview(url=call.file_url(file.id) or "", duration_secs=round(sound.seconds, 2))


def found(db: Db, voice_id: str) -> Voice:
    voice = db.get(Voice, voice_id)
    if voice is None:
        raise not_found("voice")
    return voice


def _shown(call: Call, voice: Voice) -> answers.Voice:
    head = {"id": voice.id, "name": voice.name, "description": voice.description}
    values = head | {"created_at": time_of(voice.created_ms), "status": voice.status}
    if voice.status == "READY":
        return answers.ReadyVoice(preview_url=call.file_url(voice.preview_id), **values)
    if voice.status == "FAILED":
        return answers.FailedVoice(failure_reason=voice.failure or "", **values)
    return answers.Voice(**values)
