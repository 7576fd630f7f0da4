"""How long lists of a full store take, over HTTP: python -m serve.bench.store_lists out=lists.json

Fills a store with documents and conversations, and asks for pages of 50, as clients that say nothing are given, and of
100, the largest; the first page, and the last one, behind all others.
"""

import asyncio
import itertools
import logging
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import torch
from aiohttp import ClientSession, web
from omegaconf import DictConfig
from sqlalchemy import insert
from sqlalchemy.orm import Session as Db

from configs.command.main import command
from gwm.files.outputs import check_output
from serve.bench.live_numbers import spread
from serve.bench.report import keep_json, machine
from serve.live.http.port import bound_sockets, listening
from serve.live.log_lines import log_to_stdout
from serve.live.speech.voice_servers import Speech
from serve.runway_api.call import Desk
from serve.runway_api.rest import RestApi
from serve.store.database import Store
from serve.store.keys import Limits, add_key
from serve.store.tables import Document, Entry, Session, new_id

log = logging.getLogger(__name__)

LISTS = {"documents": "/v1/documents", "conversations": "/v1/avatar_conversations"}
PAGES = (50, 100)
HOUR_MS = 3_600_000
TEXT = "The shop is open from nine to five, and on Saturdays until noon. "


def fill(db: Db, *, documents: int, conversations: int, lines: int) -> str:
    """Rows of as many different hours; the text of a key."""
    texts = [
        {"id": new_id(), "name": f"Document {number}", "content": TEXT * 30, "created_ms": number * HOUR_MS}
        | {"updated_ms": number * HOUR_MS}
        for number in range(documents)
    ]
    talks = [
        {"id": new_id(), "preset": "noa", "avatar_name": "Noa", "tools": [], "max_s": 300, "status": "COMPLETED"}
        | {"created_ms": number * HOUR_MS, "started_ms": number * HOUR_MS, "ended_ms": number * HOUR_MS + 60_000}
        for number in range(conversations)
    ]
    said = [
        {"session_id": talk["id"], "position": place, "role": "user" if place % 2 else "assistant", "content": TEXT}
        for talk in talks
        for place in range(lines)
    ]
    for table, rows in ((Document, texts), (Session, talks), (Entry, said)):
        if rows:
            db.execute(insert(table), rows)
    return add_key(db, "bench", Limits(origins=[]))


def _says_nothing(voice: dict[str, Any], text: str) -> NoReturn:
    raise ValueError("Lists are measured here, and no voices.")


async def timed(client: ClientSession, url: str, query: dict[str, Any], requests: int) -> dict[str, Any]:
    """Milliseconds of a request until its answer is parsed."""
    took_ms = []
    for _ in range(requests):
        begin = time.perf_counter()
        async with client.get(url, params=query) as answer:
            found = await answer.json()
        took_ms.append(1000 * (time.perf_counter() - begin))
        if answer.status != 200 or not found["data"]:
            raise RuntimeError(f"{url} answers {answer.status}: {found}")
    return spread(took_ms)


async def last_cursor(client: ClientSession, url: str, limit: int) -> tuple[str, int]:
    """Of the last page, and how many rows there are in all."""
    cursor, latest, rows = None, "", 0
    while True:
        async with client.get(url, params={"limit": limit} | ({"cursor": cursor} if cursor else {})) as answer:
            page = await answer.json()
        rows += len(page["data"])
        if page["nextCursor"] is None:
            return latest, rows
        latest = cursor = page["nextCursor"]


async def bench(store: Store, cfg: DictConfig) -> dict[str, Any]:
    sizes = {"documents": cfg.documents, "conversations": cfg.conversations, "lines": cfg.lines}
    load = round(os.getloadavg()[0], 2)
    key = await store.run(lambda db: fill(db, **sizes))
    desk = Desk("bench", {"noa": "Noa"}, Speech("espeak", _says_nothing), lambda session_id: None, lambda command: None)
    rest = RestApi(
        store,
        desk,
        url=None,
        visitor=lambda request: request.remote or "",
        places=lambda: 1,
        changed=lambda: None,
        backend=lambda session_id: None,
        upload_bytes=0,
    )
    app = web.Application()
    app.add_subapp("/v1", rest.app)
    sockets, found = bound_sockets("127.0.0.1", 0), {}
    async with listening(app, sockets), ClientSession(headers={"Authorization": f"Bearer {key}"}) as client:
        for name, limit in itertools.product(LISTS, PAGES):
            url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}{LISTS[name]}"
            cursor, rows = await last_cursor(client, url, limit)
            first = await timed(client, url, {"limit": limit}, cfg.requests)
            last = await timed(client, url, {"limit": limit, "cursor": cursor}, cfg.requests)
            found.setdefault(name, {"rows": rows})[f"{limit} a page"] = {"first_ms": first, "last_ms": last}
            log.info("%s, %d a page: %.1f ms in the median, %.1f ms at most", name, limit, first["p50"], first["max"])
    return {
        "machine": machine(torch.device("cpu")),
        "sizes": sizes,
        "requests": cfg.requests,
        "load_before": load,
        "lists": found,
    }


@command("bench_store_lists", verbatim=("store", "out"))
def main(cfg: DictConfig) -> None:
    log_to_stdout(as_json=False)
    for name, least in {"documents": max(PAGES) + 1, "conversations": max(PAGES) + 1, "requests": 1}.items():
        if cfg[name] < least:
            raise ValueError(f"{name}={cfg[name]} must be at least {least}: pages have up to {max(PAGES)} rows.")
    if cfg.out:
        check_output(Path(cfg.out))
    with TemporaryDirectory() as folder:
        store = Store(cfg.store or f"sqlite:///{folder}/gwm.sqlite")
        try:
            report = asyncio.run(bench(store, cfg))
        finally:
            store.close()
    sys.stdout.write(f"{keep_json(report, cfg.out)}\n")


if __name__ == "__main__":
    main()
