"""Films that are asked for, made one after the other, each in a folder of its own.

The folder stays when the server stops: whoever takes the film over on this machine goes on with what is there.
"""

import asyncio
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from sqlalchemy import delete, select
from sqlalchemy.orm import Session as Db

from gwm.files.outputs import whole_file
from serve.live.http.api import Api
from serve.runway_api.call import ApiError, Desk
from serve.runway_api.casting import NotReadyError, Role, role_of, wish_for
from serve.runway_api.films import MOUTH, Film, FilmError, FilmOptions, MakeFilm, Refilm, wav_of
from serve.runway_api.media import check_film, fetched_sound, named_by_kind, save_source
from serve.runway_api.requests import UUID
from serve.store.database import Store
from serve.store.files import parts_of, store_file
from serve.store.owners import UNFINISHED, claim
from serve.store.tables import File, Task

log = logging.getLogger(__name__)

AGAIN_S = 2.0  # until an avatar is looked at again whose picture is being read
SOUND_RATE = 24_000


class FilmWork:
    """Call `next` until it answers False: then there is nothing to do."""

    def __init__(
        self,
        store: Store,
        api: Api,
        desk: Desk,
        *,
        make_film: MakeFilm,
        options: FilmOptions,
        allows: Callable[[str], bool],
    ) -> None:
        """allows: addresses from which files may be fetched."""
        self.store, self.api, self.desk, self.make_film = store, api, desk, make_film
        self.options, self.allows, self.folder = options, allows, Path(options.work)

    async def next(self) -> bool:
        """Make one film, or say that there is none to make."""
        task = await self.store.run(lambda db: claim(db, Task, self.desk.owner))
        if task is None:
            return False
        folder = self.folder / task.id
        try:
            await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
            await self._make(task, folder)
        except NotReadyError:
            await self.store.run(lambda db: _put_back(db, task.id))
            await asyncio.sleep(AGAIN_S)
        except (FilmError, OSError) as error:
            log.warning("film %s: %s", task.id, error)
            # The message of an OSError names folders of this server.
            why = str(error)
            if isinstance(error, OSError):
                why = f"The film could not be written: {error.strerror or type(error).__name__}."
            await self._fail(task, why, "INTERNAL")
        except (ValueError, ApiError) as error:
            await self._fail(task, str(error), "INPUT")
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)  # what stays is tidied
        return True

    async def tidy(self) -> None:
        """Delete folders of films that nobody waits for, which have an id for a name."""
        there = await asyncio.to_thread(
            lambda: [path for path in self.folder.glob("*") if re.fullmatch(UUID, path.name)]
        )
        query = select(Task.id).where(Task.status.in_(UNFINISHED[Task]))
        wanted = await self.store.run(lambda db: set(db.scalars(query)), writes=False)
        for path in there:
            if path.name not in wanted:
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)

    async def _make(self, task: Task, folder: Path) -> None:
        film = await (self._refilm(task, folder) if "command" in task.request else self._film(task))
        if not await self._go_on(task.id, 0.0):
            return
        path = await self.make_film(film, folder, lambda done: self._go_on(task.id, done))
        if path is not None:
            kept = await store_file(self.store, parts_of(path), content_type="video/mp4", public=True, expires_ms=None)
            await self.store.run(lambda db: _done(db, task.id, kept))

    async def _film(self, task: Task) -> Film:
        role = await self._role(task.request["avatar"])
        own = role.voice
        if role.builtin is not None:
            voice = self.api.characters[role.builtin].voice
            own = voice if isinstance(voice, dict) else None
        return Film(role, await self._sound(task.request["speech"], own), SOUND_RATE)

    async def _refilm(self, task: Task, folder: Path) -> Refilm:
        """What a command is given; a file that an earlier run has brought is not brought again."""
        settings = {name: value for name, value in task.request.items() if value is not None}
        command, speech = settings.pop("command"), settings.pop("speech", None)
        video = await self._brought(settings["video"], folder / "video")
        await asyncio.to_thread(check_film, video, self.options)
        settings["video"] = video.name
        if speech is not None:
            settings["audio"] = "speech.wav"
            if not (folder / "speech.wav").exists():
                sound = wav_of(await self._sound(speech, None), SOUND_RATE)
                with whole_file(folder / "speech.wav") as partial:
                    partial.write_bytes(sound)
        for name, videos in (("mask", True), ("image", False)):
            if settings.get(name) not in (None, MOUTH):
                path = await self._brought(settings[name], folder / name)
                settings[name] = await asyncio.to_thread(named_by_kind, path, self.options, videos=videos)
        return Refilm(command, settings)

    async def _brought(self, source: str, path: Path) -> Path:
        if not path.exists():
            await save_source(self.store, source, path, max_bytes=self.options.max_bytes, allows=self.allows)
        return path

    async def _role(self, avatar: dict[str, Any]) -> Role:
        characters, preset, avatar_id = list(self.api.characters), avatar.get("preset_id"), avatar.get("avatar_id")
        return await self.store.run(
            lambda db: role_of(db, preset=preset, avatar_id=avatar_id, characters=characters), writes=False
        )

    async def _sound(self, speech: dict[str, Any], wish: dict[str, Any] | None) -> Float[np.ndarray, " t"]:
        """wish: the voice of a text that names none; None: the server's own."""
        if speech["type"] == "audio":
            return await fetched_sound(self.store, speech["audio"], SOUND_RATE, allows=self.allows)
        if speech["voice"] is not None:
            wish = await self.store.run(lambda db: wish_for(db, speech["voice"]), writes=False)
        sound, rate = await asyncio.to_thread(self.desk.speech.speak, wish or {}, speech["text"])
        return np.interp(np.arange(0, len(sound), rate / SOUND_RATE), np.arange(len(sound)), sound).astype(np.float32)

    async def _go_on(self, task_id: str, done: float) -> bool:
        """Whether the film is still wanted."""
        return await self.store.run(lambda db: _progress(db, task_id, done))

    async def _fail(self, task: Task, failure: str, code: str) -> None:
        await self.store.run(lambda db: _failed(db, task.id, failure, code))


def _progress(db: Db, task_id: str, done: float) -> bool:
    task = db.get(Task, task_id, with_for_update=True)
    if task is None or task.status == "CANCELLED":
        return False
    task.status, task.progress = "RUNNING", done
    return True


def _put_back(db: Db, task_id: str) -> None:
    if task := db.get(Task, task_id):
        task.owner = None


def _done(db: Db, task_id: str, file_id: str) -> None:
    task = db.get(Task, task_id, with_for_update=True)
    if task is None or task.status != "RUNNING":
        db.execute(delete(File).where(File.id == file_id))
        return
    task.status, task.progress, task.output_id = "SUCCEEDED", 1.0, file_id


def _failed(db: Db, task_id: str, failure: str, code: str) -> None:
    task = db.get(Task, task_id, with_for_update=True)
    if task is not None and task.status != "CANCELLED":
        task.status, task.failure, task.failure_code = "FAILED", failure, code
