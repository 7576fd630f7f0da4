"""What takes long: pictures of avatars, voices, vectors of documents, films; and what is done from time to time."""

import asyncio
import contextlib
import io
import logging
from collections.abc import Callable
from typing import Any

from PIL import Image
from sqlalchemy import delete
from sqlalchemy.orm import Session as Db

from gwm.optional import MissingPackageError
from serve.live.http.api import Api
from serve.live.http.refusals import FullError
from serve.live.speech.sentence_vectors import TextVectors
from serve.runway_api.call import Desk
from serve.runway_api.document_search import PassageWork
from serve.runway_api.fetch import is_public
from serve.runway_api.film_work import SOUND_RATE, FilmWork
from serve.runway_api.films import wav_of
from serve.runway_api.media import IMAGE_BYTES, fetched_sound, plain_picture, portrait_from, read_source
from serve.runway_api.voices import Design, designed, nearest_to, preview
from serve.store.database import Store
from serve.store.owners import claim, delete_old, give_up_lost_sessions, stay_alive
from serve.store.tables import Avatar, File, Voice

log = logging.getLogger(__name__)

LOOK_S, LIFE_S, TIDY_S = 2.0, 5.0, 600.0
AGAIN = "The server is too busy to read the picture. Send it again."


class Background:
    """Call `wake` when the store has changed; `run` until cancelled."""

    def __init__(
        self,
        store: Store,
        api: Api,
        desk: Desk,
        *,
        films: FilmWork,
        retention_days: int | None,
        allows: Callable[[str], bool] = is_public,
        vectors: TextVectors | None = None,
    ) -> None:
        """allows: addresses from which files may be fetched. vectors: of documents; None: they get none."""
        self.store, self.api, self.desk, self.films = store, api, desk, films
        self.retention_days, self.allows = retention_days, allows
        self.wake, self.wake_films, self.wake_documents = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.passages = None if vectors is None else PassageWork(store, vectors)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._work(self.wake, self._next_small))
            group.create_task(self._work(self.wake_films, self.films.next))
            if self.passages is not None:
                await self.passages.begin()
                group.create_task(self._work(self.wake_documents, self.passages.step))
            group.create_task(self._every(LIFE_S, lambda db: stay_alive(db, self.desk.owner)))
            group.create_task(self._every(LIFE_S, give_up_lost_sessions))
            group.create_task(self._every(TIDY_S, lambda db: delete_old(db, retention_days=self.retention_days)))
            group.create_task(self._tidy_films())

    async def _tidy_films(self) -> None:
        while True:
            await self.films.tidy()
            await asyncio.sleep(TIDY_S)

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
        sound = await fetched_sound(self.store, voice.source["audio"], SOUND_RATE, allows=self.allows)
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
