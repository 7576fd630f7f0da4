"""Bots of services that join meetings and show a page there as their camera: sent, watched, and called back."""

import asyncio
import contextlib
import json
import logging
import os
import re
import secrets
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
from sqlalchemy import select
from sqlalchemy.orm import Session as Db

from serve.runway_api.meetings import OPEN, PAGE
from serve.store.database import Store
from serve.store.keys import digest
from serve.store.owners import LIVE, claim
from serve.store.tables import Meeting, Session, now_ms

log = logging.getLogger(__name__)

LOOK_S = 2.0
ASK_S, ANSWER_BYTES, SHOWN_CHARS = 20.0, 1_000_000, 300
TRIES, PAUSE_S, MAX_PAUSE_S = 3, 1.0, 60.0
BUSY = (409, 429, 502, 503, 504, 507)  # both services say so of what may succeed a moment later
BOT_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
CUT_OFF = "The server stopped while it asked for the bot. Look at the service whether there is one."
NOT_OPENED = "The bot did not open its page in time: it was not let into the meeting, or cannot reach this server."


class BotError(RuntimeError):
    """The service did not do what it was asked; the message is for whoever asked us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BotService:
    """Where a service of bots is, and where its key comes from.

    Raises:
        ValueError: the address is no http URL.
    """

    url: str
    key_variable: str  # of the environment; without the variable the service is not used

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url={self.url!r} of a service of bots must begin with http:// or https://.")

    @property
    def key(self) -> str:
        return os.environ.get(self.key_variable, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeetingOptions:
    """Services that bring characters into meetings.

    Raises:
        ValueError: there may be no meeting at all.
    """

    recall: BotService
    attendee: BotService
    max_open: int  # meetings at once: each bot is paid for

    def __post_init__(self) -> None:
        if self.max_open < 1:
            raise ValueError(f"meetings.max_open={self.max_open} must be at least 1.")

    @classmethod
    def of(cls, values: dict[str, Any]) -> "MeetingOptions":
        services = {name: BotService(**values[name]) for name in ADAPTERS}
        return cls(**services, max_open=values["max_open"])

    @property
    def services(self) -> dict[str, BotService]:
        """Those that have a key."""
        return {name: service for name in ADAPTERS if (service := getattr(self, name)).key}


class Adapter(Protocol):
    """One service's HTTP interface: paths, and the body that asks for a bot."""

    create_path: str

    def leave_path(self, bot_id: str) -> str: ...

    def bot(self, meeting: Meeting, page: str) -> dict[str, Any]: ...


class Recall:
    """Source: docs.recall.ai, Create Bot and Leave Call (API v1), Output Media."""

    create_path = "/api/v1/bot/"

    def leave_path(self, bot_id: str) -> str:
        return f"/api/v1/bot/{bot_id}/leave_call/"

    def bot(self, meeting: Meeting, page: str) -> dict[str, Any]:
        cores = dict.fromkeys(("zoom", "google_meet", "microsoft_teams", "webex"), "web_4_core")
        camera = {"kind": "webpage", "config": {"url": page}}
        return {
            "meeting_url": meeting.url,
            "bot_name": meeting.bot_name,
            "output_media": {"camera": camera},
            "variant": cores,  # a smaller machine drops frames
        }


class Attendee:
    """Source: docs.attendee.dev, Create Bot and Leave Meeting (API v1), Voice Agents."""

    create_path = "/api/v1/bots"

    def leave_path(self, bot_id: str) -> str:
        return f"/api/v1/bots/{bot_id}/leave"

    def bot(self, meeting: Meeting, page: str) -> dict[str, Any]:
        return {
            "meeting_url": meeting.url,
            "bot_name": meeting.bot_name,
            "voice_agent_settings": {"url": page},
            "deduplication_key": meeting.id,
        }


ADAPTERS: dict[str, Adapter] = {"recall": Recall(), "attendee": Attendee()}


class Bots:
    """Call `wake` when the store has changed; `run` until cancelled."""

    def __init__(self, store: Store, services: dict[str, BotService], *, owner: str) -> None:
        self.store, self.services, self.owner = store, services, owner
        self.wake = asyncio.Event()
        self._steps: dict[str, asyncio.Task[None]] = {}  # by meeting; one at a time of each

    async def run(self) -> None:
        try:
            while True:
                while await self.store.run(lambda db: claim(db, Meeting, self.owner)):
                    pass
                for row in await self.store.run(self._mine, writes=False):
                    if row.id not in self._steps:
                        self._begin(row)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.wake.wait(), LOOK_S)
                self.wake.clear()
        finally:
            for step in list(self._steps.values()):
                step.cancel()
            await asyncio.gather(*self._steps.values(), return_exceptions=True)

    def _begin(self, row: Meeting) -> None:
        def ended(step: asyncio.Task[None]) -> None:
            del self._steps[row.id]
            if not step.cancelled() and (error := step.exception()):
                log.error("meeting %s could not be looked after and is looked at again", row.id, exc_info=error)

        step = self._steps[row.id] = asyncio.create_task(self._step(row))
        step.add_done_callback(ended)

    def _mine(self, db: Db) -> list[Meeting]:
        """Those that there is something to do for."""
        rows = db.scalars(select(Meeting).where(Meeting.owner == self.owner, Meeting.status.in_(OPEN)))
        return [row for row in rows if row.status in ("PENDING", "LEAVING") or self._is_over(db, row)]

    def _is_over(self, db: Db, row: Meeting) -> bool:
        session = db.get(Session, row.session_id) if row.session_id else None
        if session is None:
            return row.status == "RUNNING" or row.open_until_ms < now_ms()
        return session.status not in LIVE

    async def _step(self, row: Meeting) -> None:
        if row.status == "PENDING":
            await (self._send(row) if row.token_sha256 is None else self._end(row.id, "FAILED", CUT_OFF, "BOT.UNKNOWN"))
            return
        failure, code = None, None
        if row.bot_id is not None:
            try:
                await self._ask(row.provider, ADAPTERS[row.provider].leave_path(row.bot_id), {}, row.id + "-leave")
            except BotError as error:
                log.warning("the bot of meeting %s could not be called back: %s", row.id, error)
                failure, code = f"The bot could not be called back. {error}", "BOT.LEFT_ALONE"
        if failure is None and row.status != "LEAVING":
            failure, code = await self.store.run(lambda db: _why(db, row.session_id), writes=False)
        await self._end(row.id, "ENDED" if failure is None else "FAILED", failure, code)

    async def _send(self, row: Meeting) -> None:
        token = secrets.token_urlsafe(32)
        await self.store.run(lambda db: setattr(db.get_one(Meeting, row.id), "token_sha256", digest(token)))
        adapter, page = ADAPTERS[row.provider], f"{row.base_url}{PAGE}?meeting={row.id}&key={token}"
        try:
            made = await self._ask(row.provider, adapter.create_path, adapter.bot(row, page), row.id)
            bot_id = made.get("id") if isinstance(made, dict) else None
            if not isinstance(bot_id, str) or not BOT_ID.fullmatch(bot_id):
                raise BotError(f"{row.provider} gave the bot no id.")
        except BotError as error:
            await self._end(row.id, "FAILED", str(error), "BOT.REFUSED")
        else:
            await self.store.run(lambda db: _sent(db, row.id, bot_id))

    async def _ask(self, provider: str, path: str, body: dict[str, Any], once: str) -> Any:
        """JSON of the service's answer; once: the same request is carried out once by services that know this key.

        Raises:
            BotError: it refuses, is not there, or is busy for too long.
        """
        service = self.services.get(provider)
        if service is None:
            raise BotError(f"{provider} has no key on this server.")
        headers = {"Authorization": f"Token {service.key}", "Idempotency-Key": once}
        limits = aiohttp.ClientTimeout(total=ASK_S)
        async with aiohttp.ClientSession(headers=headers, timeout=limits, trust_env=False) as client:
            for attempt in range(TRIES):
                status, text, after_s = await _asked(client, service.url.rstrip("/") + path, provider, body)
                if status < 300:
                    with contextlib.suppress(ValueError):
                        return json.loads(text or "{}")
                    raise BotError(f"{provider} answers {status} without JSON.")
                if status not in BUSY or attempt == TRIES - 1:
                    break
                await asyncio.sleep(min(after_s or PAUSE_S * 2**attempt, MAX_PAUSE_S))
        raise BotError(f"{provider} answers {status}: {text[:SHOWN_CHARS]}")

    async def _end(self, meeting_id: str, status: str, failure: str | None, code: str | None) -> None:
        def end(db: Db) -> None:
            row = db.get_one(Meeting, meeting_id, with_for_update=True)
            row.status, row.failure, row.failure_code, row.ended_ms = status, failure, code, now_ms()
            row.token_sha256 = None

        await self.store.run(end)


async def _asked(
    client: aiohttp.ClientSession, url: str, provider: str, body: dict[str, Any]
) -> tuple[int, str, float | None]:
    """Status, text and seconds to wait."""
    try:
        async with client.post(url, json=body, allow_redirects=False) as answer:
            data = bytearray()
            async for piece in answer.content.iter_chunked(65_536):
                data += piece
                if len(data) > ANSWER_BYTES:
                    raise BotError(f"{provider} answers with more than {ANSWER_BYTES / 1e6:g} MB.")
            after = answer.headers.get("Retry-After", "")
            return answer.status, data.decode(errors="replace"), float(after) if after.isdecimal() else None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise BotError(f"{provider} cannot be reached: {type(error).__name__}.") from error


def _sent(db: Db, meeting_id: str, bot_id: str) -> None:
    row = db.get_one(Meeting, meeting_id, with_for_update=True)
    row.bot_id = bot_id
    if row.status == "PENDING":  # otherwise its page is open already, or it is called back
        row.status = "JOINING"


def _why(db: Db, session_id: str | None) -> tuple[str | None, str | None]:
    """What has gone wrong, if something has."""
    session = db.get(Session, session_id) if session_id else None
    if session is None:
        return NOT_OPENED, "BOT.NOT_OPENED"
    return (session.failure, session.failure_code) if session.status == "FAILED" else (None, None)
