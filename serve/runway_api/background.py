"""What takes long: pictures of avatars, voices, vectors of documents, films; and what is done from time to time."""

import asyncio
import contextlib
import io
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from sqlalchemy import delete
from sqlalchemy.orm import Session as Db

from gwm.optional import MissingPackageError
from serve.live.http.api import Api
from serve.live.http.refusals import FullError
from serve.live.speech.sentence_vectors import TextVectors
from serve.runway_api.call import ApiError, Desk
from serve.runway_api.casting import NotReadyError, Role, role_of, wish_for
from serve.runway_api.document_search import PassageWork
from serve.runway_api.fetch import is_public
from serve.runway_api.films import Film, FilmError, MakeFilm, wav_of
from serve.runway_api.media import AUDIO_BYTES, IMAGE_BYTES, plain_picture, portrait_from, read_source, sound_of
from serve.runway_api.voices import Design, designed, nearest_to, preview
from serve.store.database import Store
from serve.store.owners import claim, delete_old, give_up_lost_sessions, stay_alive
from serve.store.tables import Avatar, File, Task, Voice

log = logging.getLogger(__name__)

LOOK_S, LIFE_S, TIDY_S = 2.0, 5.0, 600.0
SOUND_RATE = 24_000
AGAIN = "The server is too busy to read the picture. Send it again."


class Background:
    """Call `wake` when the store has changed; `run` until cancelled."""

    def __init__(
        self,
        store: Store,
        api: Api,
        desk: Desk,
        *,
        make_film: MakeFilm,
        retention_days: int | None,
        allows: Callable[[str], bool] = is_public,
        vectors: TextVectors | None = None,
    ) -> None:
        """allows: addresses from which files may be fetched. vectors: of documents; None: they get none."""
        self.store, self.api, self.desk, self.make_film = store, api, desk, make_film
        self.retention_days, self.allows = retention_days, allows
        self.wake, self.wake_films, self.wake_documents = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.passages = None if vectors is None else PassageWork(store, vectors)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._work(self.wake, self._next_small))
            group.create_task(self._work(self.wake_films, self._next_film))
            if self.passages is not None:
                await self.passages.begin()
                group.create_task(self._work(self.wake_documents, self.passages.step))
            group.create_task(self._every(LIFE_S, lambda db: stay_alive(db, self.desk.owner)))
            group.create_task(self._every(LIFE_S, give_up_lost_sessions))
            group.create_task(self._every(TIDY_S, lambda db: delete_old(db, retention_days=self.retention_days)))

    async def _every(self, seconds: float, work: Callable[[Db], Any]) -> None:
        while True:
            await self.store.run(work)
            await asyncio.sleep(seconds)

    async def _work(self, wake: asyncio.Event, step: Callable[[], Any]) -> None:
        while True:
            while await step():
                pass
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), LOOK_S)
            wake.clear()

    async def _next_small(self) -> bool:
        """Whether there was something to do."""
        owner = self.desk.owner
        if avatar := await self.store.run(lambda db: claim(db, Avatar, owner)):
            await self._read_picture(avatar)
        elif voice := await self.store.run(lambda db: claim(db, Voice, owner)):
            await self._design(voice)
        else:
            return False
        return True

    async def _read_picture(self, avatar: Avatar) -> None:
        try:
            plain, preview = await self._pictures(avatar)
        except (ValueError, FullError) as error:
            failure = AGAIN if isinstance(error, FullError) else str(error)
            await self.store.run(lambda db: _avatar_done(db, avatar, "FAILED", failure, None))
        else:
            await self.store.run(lambda db: _avatar_done(db, avatar, "READY", None, (plain, preview)))

    async def _pictures(self, avatar: Avatar) -> tuple[bytes, bytes]:
        """The picture drawn anew, and the portrait in it as a PNG."""
        data = await read_source(self.store, avatar.image, max_bytes=IMAGE_BYTES, allows=self.allows)

        def draw() -> tuple[bytes, bytes]:
            plain, buffer = plain_picture(data), io.BytesIO()
            portrait = portrait_from(plain, self.api.framing, crops_to_face=avatar.crops_to_face)
            Image.fromarray(self.api.framing.shown(portrait)).save(buffer, "PNG")
            return plain, buffer.getvalue()

        return await self.api.uploads.run(draw)

    async def _design(self, voice: Voice) -> None:
        design: Design | None = None
        try:
            design = await self._designed(voice)
            wish, text = design.wish, design.description
            sample = (await asyncio.to_thread(preview, self.desk.speech.speak, wish)).mp3
        except (ValueError, MissingPackageError, FileNotFoundError) as error:
            failure, wanted = str(error), False
            await self.store.run(lambda db: _voice_done(db, voice.id, "FAILED", failure, None, None))
        else:
            wanted = await self.store.run(lambda db: _voice_done(db, voice.id, "READY", text, wish, sample))
        if design is not None and not wanted:
            await self._delete_elsewhere(design)

    async def _designed(self, voice: Voice) -> Design:
        speech = self.desk.speech
        if "prompt" in voice.source:
            return await asyncio.to_thread(designed, voice.source["prompt"], speech)
        sound = await self._fetched_sound(voice.source["audio"])
        design = await asyncio.to_thread(nearest_to, sound, SOUND_RATE, speech)
        if speech.maker is None:
            return design
        # Written anew: nothing else of the client's file goes to another server.
        sample, name = wav_of(sound, SOUND_RATE), f"gwm-{voice.id}"
        copy = await speech.maker.clone(name, sample, "audio/wav", consent=voice.source.get("consent_id"))
        return Design(design.wish | {"openai": copy}, "A copy of the sample, made by the voice server.")

    async def _delete_elsewhere(self, design: Design) -> None:
        """A copy that nobody has here: its voice was deleted meanwhile, or it does not speak."""
        maker, copy = self.desk.speech.maker, design.wish["openai"]
        if maker is not None and isinstance(copy, dict):
            try:
                await maker.delete(copy)
            except ValueError as error:
                log.warning("%s", error)

    async def _next_film(self) -> bool:
        task = await self.store.run(lambda db: claim(db, Task, self.desk.owner))
        if task is None:
            return False
        try:
            role = await self._role(task)
        except NotReadyError:
            await self.store.run(lambda db: _put_back(db, task.id))
            await asyncio.sleep(LOOK_S)
            return True
        except (ApiError, ValueError) as error:
            await self._fail_film(task, str(error), "INPUT")
            return True
        try:
            film = Film(role, await self._sound(task, role), SOUND_RATE)
            await self.store.run(lambda db: _progress(db, task.id, 0.0))
            data = await self.make_film(film, lambda done: self._go_on(task.id, done))
        except (FilmError, ValueError, ApiError) as error:
            await self._fail_film(task, str(error), "INTERNAL" if isinstance(error, FilmError) else "INPUT")
        else:
            if data is not None:
                await self.store.run(lambda db: _film_done(db, task.id, data))
        return True

    async def _role(self, task: Task) -> Role:
        avatar, characters = task.request["avatar"], list(self.api.characters)
        preset, avatar_id = avatar.get("preset_id"), avatar.get("avatar_id")
        return await self.store.run(
            lambda db: role_of(db, preset=preset, avatar_id=avatar_id, characters=characters), writes=False
        )

    async def _sound(self, task: Task, role: Role) -> Float[np.ndarray, " t"]:
        speech = task.request["speech"]
        if speech["type"] == "audio":
            return await self._fetched_sound(speech["audio"])
        wish = role.voice
        if speech["voice"] is not None:
            wish = await self.store.run(lambda db: wish_for(db, speech["voice"]), writes=False)
        elif role.builtin is not None:
            own = self.api.characters[role.builtin].voice
            wish = own if isinstance(own, dict) else None
        sound, rate = await asyncio.to_thread(self.desk.speech.speak, wish or {}, speech["text"])
        return np.interp(np.arange(0, len(sound), rate / SOUND_RATE), np.arange(len(sound)), sound).astype(np.float32)

    async def _fetched_sound(self, source: str) -> Float[np.ndarray, " t"]:
        data = await read_source(self.store, source, max_bytes=AUDIO_BYTES, allows=self.allows)
        return await asyncio.to_thread(sound_of, data, SOUND_RATE)

    async def _go_on(self, task_id: str, done: float) -> bool:
        """Whether the film is still wanted."""
        return await self.store.run(lambda db: _progress(db, task_id, done))

    async def _fail_film(self, task: Task, failure: str, code: str) -> None:
        await self.store.run(lambda db: _film_failed(db, task.id, failure, code))


def _avatar_done(db: Db, avatar: Avatar, status: str, failure: str | None, files: tuple[bytes, bytes] | None) -> None:
    row = db.get(Avatar, avatar.id, with_for_update=True)
    if row is None or row.image != avatar.image or row.status != "PROCESSING":
        return  # deleted or changed meanwhile
    row.status, row.failure, row.image = status, failure, avatar.image if status == "FAILED" else ""
    if files is None:
        return
    old = [one for one in (row.reference_id, row.processed_id) if one is not None]
    kinds = ("image/jpeg", "image/png")
    plain, cut = (File(content_type=kind, data=data, public=True) for kind, data in zip(kinds, files))
    db.add_all([plain, cut])
    db.flush()
    row.reference_id, row.processed_id = plain.id, cut.id
    db.flush()
    db.execute(delete(File).where(File.id.in_(old)))


def _voice_done(
    db: Db, voice_id: str, status: str, text: str, wish: dict[str, Any] | None, sample: bytes | None
) -> bool:
    """Whether there is still somebody who wants it. Of what was sent only the statement of rights stays."""
    row = db.get(Voice, voice_id, with_for_update=True)
    if row is None:
        return False
    kept = {"rights": row.source["rights"]} if "rights" in row.source else {}
    row.status, row.source = status, kept | ({} if wish is None else {"basis": text})
    if wish is None:
        row.failure = text
        return True
    row.wish, row.description = wish, row.description or text
    if sample is not None:
        file = File(content_type="audio/mpeg", data=sample, public=True)
        db.add(file)
        db.flush()
        row.preview_id = file.id
    return True


def _progress(db: Db, task_id: str, done: float) -> bool:
    task = db.get(Task, task_id, with_for_update=True)
    if task is None or task.status == "CANCELLED":
        return False
    task.status, task.progress = "RUNNING", done
    return True


def _put_back(db: Db, task_id: str) -> None:
    if task := db.get(Task, task_id):
        task.owner = None


def _film_done(db: Db, task_id: str, data: bytes) -> None:
    task = db.get(Task, task_id, with_for_update=True)
    if task is None or task.status != "RUNNING":
        return
    file = File(content_type="video/mp4", data=data, public=True)
    db.add(file)
    db.flush()
    task.status, task.progress, task.output_id = "SUCCEEDED", 1.0, file.id


def _film_failed(db: Db, task_id: str, failure: str, code: str) -> None:
    task = db.get(Task, task_id, with_for_update=True)
    if task is not None and task.status != "CANCELLED":
        task.status, task.failure, task.failure_code = "FAILED", failure, code
