"""Films of avatars that speak, and of other films: asked for here, made in the background, one at a time."""

from typing import Any

from sqlalchemy import delete
from sqlalchemy.orm import Session as Db

from serve.runway_api import answers
from serve.runway_api.answers import Created, by_status, time_of
from serve.runway_api.avatars import checked_voice
from serve.runway_api.avatars import found as found_avatar
from serve.runway_api.call import ApiError, Call, Command, not_found
from serve.runway_api.film_requests import VideoDubRequest, VideoEditRequest
from serve.runway_api.presets import character_of
from serve.runway_api.requests import NoQuery, PresetAvatar, SpeechText, VideoRequest
from serve.store.owners import UNFINISHED
from serve.store.tables import File, Task

AnyTask = answers.Task | answers.RunningTask | answers.SucceededTask | answers.CancelledTask | answers.FailedTask


def create(db: Db, call: Call, query: NoQuery, body: VideoRequest) -> Created:
    if not isinstance(body.avatar, PresetAvatar):
        found_avatar(db, body.avatar.avatar_id)
    elif character_of(body.avatar.preset_id, list(call.desk.characters)) is None:
        raise ApiError(404, f"There is no preset avatar {body.avatar.preset_id}.")
    if isinstance(body.speech, SpeechText) and body.speech.voice is not None:
        checked_voice(db, body.speech.voice)
    return _asked(db, body.model_dump())


def dub(db: Db, call: Call, query: NoQuery, body: VideoDubRequest) -> Created:
    """A new voice for a film: the mouth says it, and the rest of the picture stays."""
    if isinstance(body.speech, SpeechText) and body.speech.voice is not None:
        checked_voice(db, body.speech.voice)
    return _refilm(db, call, "dub", body)


def edit(db: Db, call: Call, query: NoQuery, body: VideoEditRequest) -> Created:
    """Parts of a film drawn anew, a larger frame around it, or another prompt for what it shows."""
    return _refilm(db, call, "edit", body)


def _refilm(db: Db, call: Call, command: Command, body: VideoDubRequest | VideoEditRequest) -> Created:
    if (reason := call.desk.refuses(command)) is not None:
        raise ApiError(409, reason)
    return _asked(db, {"command": command} | body.model_dump())


def _asked(db: Db, request: dict[str, Any]) -> Created:
    task = Task(request=request, status="PENDING")
    db.add(task)
    db.flush()
    return Created(id=task.id)


def read(db: Db, call: Call, query: NoQuery, body: None) -> AnyTask:
    task = _found(db, call.id)
    values = {
        "id": task.id,
        "created_at": time_of(task.created_ms),
        "status": task.status,
        "progress": task.progress,
        "output": [call.file_url(task.output_id) or ""],
        "failure": task.failure or "",
        "failure_code": task.failure_code or "",
    }
    return by_status(AnyTask, values)


def cancel(db: Db, call: Call, query: NoQuery, body: None) -> None:
    """One that is not finished is cancelled; one that is finished is deleted, with its film."""
    task = _found(db, call.id)
    if task.status in UNFINISHED[Task]:
        task.status = "CANCELLED"
        return
    output = task.output_id
    db.delete(task)
    db.flush()
    db.execute(delete(File).where(File.id == output))


def _found(db: Db, task_id: str) -> Task:
    task = db.get(Task, task_id)
    if task is None:
        raise not_found("task")
    return task
