"""What the documents of an avatar say to a question, and the vectors that are kept of their passages."""

import asyncio
import logging

import numpy as np
from jaxtyping import Float
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session as Db
from sqlalchemy.orm import undefer

from serve.live.speech.knowledge import Passage, PassageIndex, asked, best_sentence, embedded
from serve.live.speech.sentence_vectors import TextVectors
from serve.store.database import Store
from serve.store.tables import AvatarDocument, Document, PassageVectors

log = logging.getLogger(__name__)


class DocumentSearch:
    """A `Knowledge` of one session."""

    def __init__(self, store: Store, avatar_id: str, vectors: TextVectors | None = None) -> None:
        """vectors: of questions; None: documents are searched by their words alone."""
        self.store, self.avatar_id, self.index, self.vectors = store, avatar_id, PassageIndex(), vectors
        self._versions: dict[str, tuple[int, str | None]] = {}  # of documents in the index
        self._searching = asyncio.Lock()

    async def passages(self, questions: list[str]) -> list[Passage]:
        """As `Knowledge.passages`."""
        async with self._searching:
            return (await self._search(questions))[0]

    async def sentence(self, question: str) -> Passage | None:
        """As `Knowledge.sentence`: the one that shares most words with the question, else the piece that means most
        nearly the same."""
        async with self._searching:
            passages, vector = await self._search([question])
            found = best_sentence(passages, question)
            if found or self.vectors is None:
                return found
            if vector is None:
                (vector,) = await self.vectors([question])
            return await asyncio.to_thread(self.index.closest, vector)

    async def _search(self, questions: list[str]) -> tuple[list[Passage], Float[np.ndarray, " d"] | None]:
        """Passages, and the vector of the question where they were ranked by it."""
        try:
            wants = await self.store.run(self._refresh, writes=False)
        except OperationalError as error:
            log.warning("answered without documents, as the store does not answer: %s", error.orig)
            return [], None
        vector = (await self.vectors([asked(questions)]))[0] if wants and self.vectors and questions else None
        return await asyncio.to_thread(self.index.search, questions, vector), vector

    def _refresh(self, db: Db) -> bool:
        """Read what has changed since the question before; whether the index wants a question's vector."""
        network = None if self.vectors is None else self.vectors.network
        linked = select(Document.id, Document.updated_ms, PassageVectors.network).join(AvatarDocument)
        linked = linked.outerjoin(PassageVectors, PassageVectors.document_id == Document.id)
        rows = db.execute(linked.where(AvatarDocument.avatar_id == self.avatar_id).order_by(AvatarDocument.position))
        current = {row.id: (row.updated_ms, row.network if row.network == network else None) for row in rows}
        for document_id in self._versions.keys() - current.keys():
            self.index.remove(document_id)
        for document_id, version in current.items():
            if self._versions.get(document_id) != version:
                self._read(db, document_id, has_vectors=version[1] is not None)
        self._versions = current
        return self.index.wants_vector()

    def _read(self, db: Db, document_id: str, *, has_vectors: bool) -> None:
        columns = select(Document.name, Document.content, PassageVectors.vectors)
        columns = columns.outerjoin(PassageVectors, PassageVectors.document_id == Document.id)
        for name, content, data in db.execute(columns.where(Document.id == document_id)):
            self.index.add(document_id, name, content, unpacked(data) if has_vectors else None)


class PassageWork:
    """Makes the vectors of documents that have none, one document after the other."""

    def __init__(self, store: Store, vectors: TextVectors) -> None:
        self.store, self.vectors = store, vectors

    async def begin(self) -> None:
        """Vectors of another network are made anew."""
        await self.store.run(lambda db: _forget_others(db, self.vectors.network))

    async def step(self) -> bool:
        """Whether there was something to do. Servers that share a store may do the same: the result is one."""
        document = await self.store.run(_first_without, writes=False)
        if document is None:
            return False
        made = await self.vectors(embedded(document.name, document.content))
        await self.store.run(lambda db: _keep(db, document, self.vectors.network, packed(made)))
        return True


def packed(vectors: Float[np.ndarray, "n d"]) -> bytes:
    """In half precision: the vectors have length 1, so the ranks stay."""
    return len(vectors).to_bytes(4, "little") + vectors.astype("<f2").tobytes()


def unpacked(data: bytes) -> Float[np.ndarray, "n d"]:
    count = int.from_bytes(data[:4], "little")
    return np.frombuffer(data, "<f2", offset=4).reshape(count, -1) if count else np.zeros((0, 0), np.float32)


def _forget_others(db: Db, network: str) -> None:
    db.execute(update(PassageVectors).where(PassageVectors.network != network).values(network=None, vectors=b""))


def _first_without(db: Db) -> Document | None:
    """A document without vectors, with its content."""
    missing = select(PassageVectors.document_id).where(PassageVectors.network.is_(None)).limit(1)
    document_id = db.scalar(missing)
    return None if document_id is None else db.get(Document, document_id, options=[undefer(Document.content)])


def _keep(db: Db, document: Document, network: str, vectors: bytes) -> None:
    """Unless it was changed or deleted meanwhile."""
    row = db.get(PassageVectors, document.id, with_for_update=True)
    now = db.get(Document, document.id)
    if row is not None and now is not None and now.updated_ms == document.updated_ms:
        row.network, row.vectors = network, vectors
