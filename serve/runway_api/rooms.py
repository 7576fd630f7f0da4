"""Sessions of this server: each waits for a place, is opened, watched and ended; the store says what clients see."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import func, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session as Db

from serve.live.characters import Character
from serve.live.http.admission import RESTARTS
from serve.live.http.api import Api
from serve.live.http.conversation import Conversation
from serve.live.http.refusals import FullError
from serve.live.http.session import BROKEN, OneTimeKey
from serve.live.room.tokens import Tokens
from serve.live.speech.sentence_vectors import TextVectors
from serve.live.speech.tools import BackendPlace, Call
from serve.live.speech.turns import Event
from serve.live.vision.sight import MODES
from serve.runway_api.call import ApiError
from serve.runway_api.casting import NotReadyError, Role, role_of
from serve.runway_api.document_search import DocumentSearch
from serve.runway_api.media import portrait_from
from serve.runway_api.session_queue import QUEUE_S, SEEN, SessionQueue
from serve.runway_api.session_tools import session_tools
from serve.runway_api.sessions import end, without_token
from serve.store.database import Store
from serve.store.owners import LIVE
from serve.store.tables import ApiKey, Entry, Session, now_ms

log = logging.getLogger(__name__)

LOOK_S = 0.5  # between two looks at who waits
NO_ROOM = f"No place became free within {QUEUE_S:.0f} s."
NOBODY = "Nobody connected before the session key expired."
FAILURES = {BROKEN: "INTERNAL", RESTARTS: "SERVER.STOPPED"}
TIME_OVER = "The session's maxDuration is over."
ROLES = {"user": "user", "character": "assistant"}


class Rooms:
    """Call `wake` when the store has changed; `run` until cancelled, and then `finish`."""

    def __init__(
        self,
        store: Store,
        api: Api,
        tokens: Tokens,
        *,
        owner: str,
        url: str | None = None,
        vectors: TextVectors | None = None,
    ) -> None:
        """url: where clients connect; None: where they asked for the session. vectors: of what they ask."""
        self.store, self.api, self.tokens, self.owner, self.url = store, api, tokens, owner, url
        self.vectors = vectors
        self.wake = asyncio.Event()
        self.open: dict[str, Conversation] = {}
        self.queue = SessionQueue(self._let_in, give_up=self._give_up, tell=self._tell, now_ms=now_ms)
        self._writes: asyncio.Queue[Callable[[Db], None]] = asyncio.Queue()
        self._writing: asyncio.Future[None] | None = None

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write())
            group.create_task(self._look())

    async def finish(self) -> None:
        """What has been said until the end is written too."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        while not self._writes.empty():
            await self.store.run(self._writes.get_nowait())

    async def _write(self) -> None:
        """One after the other, as it happened."""
        while True:
            change = await self._writes.get()
            self._writing = asyncio.ensure_future(self.store.run(change))
            await asyncio.shield(self._writing)  # what is taken from the queue is written, whoever is cancelled

    async def _look(self) -> None:
        while True:
            waiting, number, live = await self.store.run(self._mine, writes=False)
            self.api.gauges.queued.set(number)
            for session_id in [each for each in self.open if each not in live]:
                await self.open.pop(session_id).close("The session was ended.")
            await self.queue.go_on(waiting)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wake.wait(), LOOK_S)
            self.wake.clear()

    def _mine(self, db: Db) -> tuple[list[Session], int, set[str]]:
        """The first of the queue, how many know that they wait, and which of the open sessions nobody has ended."""
        line = (Session.owner == self.owner) & (Session.status == "NOT_READY")
        first = select(Session).where(line).order_by(Session.created_ms).limit(SEEN)
        number = db.scalar(select(func.count()).select_from(Session).where(line, Session.queued)) or 0
        live = select(Session.id).where(Session.id.in_(list(self.open)), Session.status.in_(LIVE))
        return list(db.scalars(first)), number, set(db.scalars(live))

    async def _let_in(self, row: Session) -> bool:
        """Open the session if it can be; False: there is no place, for nobody."""
        if row.integration is not None:
            message = f"Rooms of {row.integration} are not joined by this server."
            await self._fail(row.id, message, "INTEGRATION.UNSUPPORTED")
            return True
        if not self.api.admission.free:
            return False
        try:
            characters = list(self.api.characters)
            role = await self.store.run(
                lambda db: role_of(db, preset=row.preset, avatar_id=row.avatar_id, characters=characters), writes=False
            )
            pages = await self.store.run(lambda db: pages_of(db, row), writes=False)
            await self._open(row, await self._character(row, role), pages)
        except NotReadyError:
            pass  # its turn comes again
        except FullError:
            return False
        except (ApiError, ValueError) as error:
            await self._fail(row.id, str(error), "AVATAR.UNUSABLE")
        except OperationalError:
            raise  # the store: it is tried again
        except Exception:  # of one session; the others must not wait for it for ever
            log.exception("session %s could not be opened", row.id)
            await self._fail(row.id, BROKEN, FAILURES[BROKEN])
        return True

    async def _character(self, row: Session, role: Role) -> Character:
        """The character of a session, with the personality and start script that the session overrides.

        Raises:
            FullError: too many pictures wait to be decoded.
            ValueError: the picture cannot be read.
        """
        if role.builtin is not None:
            character = self.api.characters[role.builtin]
        else:
            framing, to_face = self.api.framing, role.crops_to_face
            portrait = await self.api.uploads.run(lambda: portrait_from(role.picture, framing, crops_to_face=to_face))
            character = Character(row.avatar_id or "", role.name, portrait, role.personality, role.voice)
            knowledge = DocumentSearch(self.store, character.key, self.vectors)
            await knowledge.passages([])  # cut into passages before the first question
            given = replace(character, start_script=role.start_script, knowledge=knowledge)
            character = replace(given, margin=framing.margin, vision=role.vision)
        if row.vision is not None:
            character = replace(character, vision=min(character.vision, row.vision, key=MODES.index))
        if row.personality is not None:
            character = replace(character, personality=row.personality)
        return character if row.start_script is None else replace(character, start_script=row.start_script)

    async def _open(self, row: Session, character: Character, pages: frozenset[str] | None) -> None:
        def make(live_id: str, on_end: Callable[[], None]) -> Conversation:
            session = self.api.make_conversation(live_id, character, on_end)
            assert isinstance(session, Conversation), "this API is mounted where characters talk"
            session.witness, session.evictable = Record(self, row.id, row.max_s, session), False
            session.open_to = pages
            if session.trace is not None:
                session.trace.attributes["gwm.id"] = row.id
            session.agent.offer(session_tools(row.tools, send=session.send, backend=session.backend))
            return session

        session = self.api.admission.open(make, f"session {row.id}")
        self.open[row.id] = session
        expires_ms = now_ms() + round(1000 * session.timeouts.connect_s)
        key, room = secrets.token_urlsafe(32), self._room(session, hidden=False)
        session.key = OneTimeKey(room["token"])  # the same token opens the connection of our own page's kind

        def ready(db: Db) -> bool:
            found = db.get(Session, row.id, with_for_update=True)
            if found is None or found.status != "NOT_READY":
                return False
            found.status, found.expires_ms, found.session_key, found.room = "READY", expires_ms, key, room
            return True

        if not await self.store.run(ready):
            await session.close("The session was ended.")

    def backend_room(self, row: Session) -> dict[str, str] | None:
        """What a program joins an open session with; None where it is not open on this server."""
        session = self.open.get(row.id)
        return None if session is None else self._room(session, hidden=True)

    def backend(self, session_id: str) -> BackendPlace | None:
        """Where calls of an open session are answered; None where it is not open on this server."""
        session = self.open.get(session_id)
        return None if session is None else session.backend

    def _room(self, session: Conversation, *, hidden: bool) -> dict[str, str]:
        seconds = session.timeouts.connect_s + session.timeouts.session_s
        room = {"token": self.tokens.sign(session.id, hidden=hidden, seconds=seconds), "room_name": session.id}
        return room if self.url is None else room | {"url": self.url}

    async def _tell(self) -> None:
        await self.store.run(lambda db: set_queued(db, self.owner))

    async def _give_up(self, row: Session) -> None:
        await self._fail(row.id, NO_ROOM, "CAPACITY")

    async def _fail(self, session_id: str, failure: str, code: str) -> None:
        await self.store.run(lambda db: _end(db, session_id, "FAILED", failure, code))

    def write(self, change: Callable[[Db], None]) -> None:
        self._writes.put_nowait(change)


class Record:
    """Writes down what happens to one session."""

    def __init__(self, rooms: Rooms, session_id: str, max_s: int, session: Conversation) -> None:
        self.rooms, self.id, self.max_s, self.session = rooms, session_id, max_s, session
        self._met = False
        self._position, self._role = -1, ""  # of the last line
        self._open: dict[str, tuple[int, str]] = {}  # lines that may grow, by role
        self._timer: asyncio.TimerHandle | None = None

    def connected(self) -> None:
        self._met = True
        began = now_ms()
        self.rooms.write(lambda db: _begin(db, self.id, began))
        stop = lambda: self.session.spawn(self.session.close(TIME_OVER))  # noqa: E731
        self._timer = asyncio.get_running_loop().call_later(self.max_s, stop)

    def said(self, event: Event) -> None:
        """Captions of one side that follow each other are one line. Until it answers, what the character says belongs
        to its line before: its last words may come after what the visitor has written meanwhile."""
        if event.get("state") == "thinking" and self._role == "user":
            self._open.pop("assistant", None)
        if event["type"] != "caption":
            return
        role, text = ROLES[event["who"]], event["text"].strip()
        if role in self._open and (role == self._role or role == "assistant"):
            position, before = self._open[role]
            text = f"{before} {text}"
        else:
            position = self._position = self._position + 1
            self._role = role
        self._open[role] = position, text
        at_ms = now_ms()
        self.rooms.write(lambda db: _say(db, self.id, position, role, text, at_ms))

    def called(self, call: Call) -> None:
        """A call has a line of its own."""
        self._position, self._role = self._position + 1, ""
        self._open.clear()
        position, at_ms = self._position, now_ms()
        self.rooms.write(lambda db: _add_call(db, self.id, position, call, at_ms))

    def ended(self, reason: str) -> None:
        self.session.backend.ended.set()
        self.rooms.open.pop(self.id, None)
        if self._timer:
            self._timer.cancel()
        self.rooms.wake.set()  # there is a place
        if reason in FAILURES:
            self.rooms.write(lambda db: _end(db, self.id, "FAILED", reason, FAILURES[reason]))
        elif self._met:
            self.rooms.write(lambda db: _end(db, self.id, "COMPLETED", None, None))
        else:
            self.rooms.write(lambda db: _end(db, self.id, "FAILED", NOBODY, "SESSION.EXPIRED"))


def set_queued(db: Db, owner: str) -> None:
    """Clients of all that wait at this server learn it."""
    waiting = update(Session).where(Session.owner == owner, Session.status == "NOT_READY", Session.queued.is_(False))
    db.execute(waiting.values(queued=True))


def pages_of(db: Db, row: Session) -> frozenset[str] | None:
    """Origins whose pages may connect to a session: those of its publishable key; None: any, as by a secret one."""
    key = db.get(ApiKey, row.key_id) if row.key_id else None
    return frozenset(key.origins) if key is not None and key.origins else None


def _begin(db: Db, session_id: str, began_ms: int) -> None:
    session = db.get(Session, session_id, with_for_update=True)
    if session is not None and session.status == "READY":
        session.status, session.started_ms = "RUNNING", began_ms
        session.session_key, session.room = None, without_token(session.room)


def _end(db: Db, session_id: str, status: str, failure: str | None, code: str | None) -> None:
    """Unless it has ended already, as when a client cancelled it."""
    session = db.get(Session, session_id, with_for_update=True)
    if session is not None and session.status in LIVE:
        end(session, status=status, failure=failure, failure_code=code)


def _say(db: Db, session_id: str, position: int, role: str, text: str, at_ms: int) -> None:
    if db.get(Session, session_id) is None:  # deleted meanwhile
        return
    row = db.scalar(select(Entry).where(Entry.session_id == session_id, Entry.position == position))
    if row is None:
        db.add(Entry(session_id=session_id, position=position, role=role, content=text, at_ms=at_ms))
    else:
        row.content = text


def _add_call(db: Db, session_id: str, position: int, call: Call, at_ms: int) -> None:
    if db.get(Session, session_id) is None:  # deleted meanwhile
        return
    head = {"id": call.id, "name": call.name}
    outcome = {"result": call.result, "error": call.error, "durationMs": call.duration_ms}
    called, answered = [head | {"arguments": call.arguments}], [head | outcome]
    entry = Entry(session_id=session_id, position=position, role="assistant", content=None, at_ms=at_ms)
    entry.tool_calls, entry.tool_results = called, answered
    db.add(entry)
