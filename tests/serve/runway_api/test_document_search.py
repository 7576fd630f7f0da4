"""What an avatar's documents say to a question, by words and by vectors that are kept in the store."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, delete, select, text, update

from serve.live.speech.knowledge import Passage
from serve.runway_api.document_search import DocumentSearch, PassageWork, packed, unpacked
from serve.store.database import MIGRATIONS, Store
from serve.store.tables import Avatar, AvatarDocument, Document, PassageVectors, now_ms
from tests.serve.live.speech.test_knowledge import FILLER, meanings
from tests.serve.runway_api.api_kit import AVATAR, Served, served

FEE = {"name": "Desk", "content": "# Tickets\n\nThe fee is four euros."}
SENTENCE = Passage("Desk", "The fee is four euros.")
EMBEDDED = "Desk: The fee is four euros."
QUESTION = "How much money must I pay?"


class Meanings:
    """`meanings`, and what it was asked for."""

    network = "three meanings"

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.texts, self.before = list[str](), before

    async def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.before()
        self.texts += texts
        return meanings(texts) if texts else np.zeros((0, 3), np.float32)

    def close(self) -> None: ...


def searched(folder: Path, script: Callable[[Store, DocumentSearch, Meanings], Awaitable[None]]) -> None:
    async def run() -> None:
        store, vectors = Store(f"sqlite:///{folder}/gwm.sqlite"), Meanings()
        store.do(avatar)
        await script(store, DocumentSearch(store, "vera", vectors), vectors)
        store.close()

    asyncio.run(run())


def avatar(db: Any) -> None:
    db.add(Avatar(id="vera", name="Vera", personality="-", voice={}, image="", crops_to_face=True, status="READY"))
    db.flush()
    for place, (name, content) in enumerate((("Filler", FILLER), ("Desk", FEE["content"]))):
        db.add(Document(id=name, name=name, content=content))
        db.flush()
        db.add(PassageVectors(document_id=name))
        db.add(AvatarDocument(avatar_id="vera", document_id=name, position=place))


async def embedded(store: Store, vectors: Meanings) -> int:
    """How many documents were given vectors."""
    work, steps = PassageWork(store, vectors), 0
    await work.begin()
    while await work.step():
        steps += 1
    return steps


def names(passages: list[Passage]) -> list[str]:
    return list(dict.fromkeys(each.document for each in passages))


def test_a_document_is_found_by_its_meaning_as_soon_as_its_vectors_are_made(tmp_path: Path):
    async def script(store: Store, search: DocumentSearch, vectors: Meanings) -> None:
        assert await search.passages([QUESTION, "Yes?"]) == await search.passages(["Why?"]) == []
        assert vectors.texts == []
        assert await embedded(store, vectors) == 2 and await embedded(store, vectors) == 0
        assert names(await search.passages([QUESTION])) == ["Desk"] and vectors.texts[-1] == QUESTION

    searched(tmp_path, script)


def test_a_sentence_is_quoted_by_its_words_else_by_its_meaning_else_none(tmp_path: Path):
    async def script(store: Store, search: DocumentSearch, vectors: Meanings) -> None:
        await embedded(store, vectors)
        assert await search.sentence("What is the fee in euros?") == SENTENCE
        assert await search.sentence("What is to pay, please?") == SENTENCE
        assert await search.sentence("Do you like music?") is None
        assert await DocumentSearch(store, "vera").sentence("What is to pay, please?") is None

    searched(tmp_path, script)


@pytest.mark.parametrize("short", [False, True])
def test_a_sentence_asks_for_one_vector_also_of_documents_that_are_short_enough_to_be_given_whole(
    short: bool, tmp_path: Path
):
    async def script(store: Store, search: DocumentSearch, vectors: Meanings) -> None:
        await embedded(store, vectors)
        if short:
            store.do(lambda db: db.execute(delete(AvatarDocument).where(AvatarDocument.document_id == "Filler")))
        vectors.texts.clear()
        assert await search.sentence(QUESTION) == SENTENCE and vectors.texts == [QUESTION]

    searched(tmp_path, script)


def test_vectors_of_what_changed_while_they_were_made_are_not_kept(tmp_path: Path):
    async def script(store: Store, search: DocumentSearch, vectors: Meanings) -> None:
        def change() -> None:
            store.do(lambda db: setattr(db.get_one(Document, "Desk"), "updated_ms", now_ms() + 1_000))

        assert await embedded(store, vectors) == 2
        store.do(lambda db: db.execute(update(PassageVectors).values(network=None)))
        changing = Meanings(change)
        assert await PassageWork(store, changing).step() and await PassageWork(store, changing).step()
        left = store.do(lambda db: list(db.scalars(select(PassageVectors.document_id).filter_by(network=None))))
        assert left == ["Desk"]
        assert await embedded(store, vectors) == 1

    searched(tmp_path, script)


def test_vectors_of_another_network_are_not_compared_and_are_made_anew(tmp_path: Path):
    async def script(store: Store, search: DocumentSearch, vectors: Meanings) -> None:
        await embedded(store, vectors)
        store.do(lambda db: db.execute(update(PassageVectors).values(network="another")))
        assert await search.passages([QUESTION]) == []
        assert await embedded(store, vectors) == 2
        assert names(await search.passages([QUESTION])) == ["Desk"]

    searched(tmp_path, script)


def test_vectors_come_with_a_document_change_with_it_and_go_with_it(tmp_path: Path):
    def kept(one: Served) -> list[tuple[str | None, int]]:
        rows = one.store.do(lambda db: db.execute(select(PassageVectors.network, PassageVectors.vectors)).all())
        return [(network, len(data)) for network, data in rows]

    async def made(one: Served) -> None:
        async with asyncio.timeout(30):
            while not kept(one) or any(network is None for network, _ in kept(one)):
                await asyncio.sleep(0.02)

    async def script(one: Served) -> None:
        path = f"/documents/{(await one.ask('POST', '/documents', FEE))['id']}"
        await made(one)
        assert vectors.texts == [EMBEDDED] and kept(one) == [(Meanings.network, 4 + 3 * 2)]
        await one.ask("PATCH", path, {"content": "The fee is five euros."}, status=204)
        await made(one)
        assert vectors.texts[1:] == ["Desk: The fee is five euros."]
        await one.ask("DELETE", path, status=204)
        assert kept(one) == []

    vectors = Meanings()
    served(script, tmp_path, make_vectors=lambda: vectors)


def test_documents_of_before_get_vectors_when_a_server_starts(tmp_path: Path):
    async def first(one: Served) -> None:
        await one.ask("POST", "/documents", FEE)

    async def second(one: Served) -> None:
        async with asyncio.timeout(30):
            while vectors.texts != [EMBEDDED]:
                await asyncio.sleep(0.02)

    vectors = Meanings()
    served(first, tmp_path)
    served(second, tmp_path, make_vectors=lambda: vectors)


def test_documents_of_the_version_before_are_to_get_vectors(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/gwm.sqlite"
    engine, config = create_engine(url), Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
        insert = "INSERT INTO documents (id, created_ms, name, content, updated_ms) VALUES ('1', 1, 'a', 'b', 1)"
        connection.execute(text(insert))
    engine.dispose()
    store = Store(url)
    rows = store.do(lambda db: db.execute(select(PassageVectors.document_id, PassageVectors.network)).all())
    assert [tuple(row) for row in rows] == [("1", None)]
    store.close()


def test_half_precision_keeps_the_ranks():
    vectors = np.random.default_rng(0).normal(size=(20, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    again = unpacked(packed(vectors))
    assert np.abs(again @ vectors[0] - vectors @ vectors[0]).max() < 1e-3
    assert len(unpacked(packed(np.zeros((0, 384), np.float32)))) == 0


def test_without_a_network_words_are_left(tmp_path: Path):
    async def script(one: Served) -> None:
        document = await one.ask("POST", "/documents", FEE)
        made = await one.ask("POST", "/avatars", AVATAR | {"documentIds": [document["id"]]})
        assert await DocumentSearch(one.store, made["id"]).sentence("What is the fee?") == SENTENCE

    served(script, tmp_path)
