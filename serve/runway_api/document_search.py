"""What an avatar's documents say to a question, as they are in the store at that moment."""

import asyncio
import logging

from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session as Db

from serve.live.speech.knowledge import Passage, PassageIndex
from serve.store.database import Store
from serve.store.tables import AvatarDocument, Document

log = logging.getLogger(__name__)


class DocumentSearch:
    """A `Knowledge` of one session."""

    def __init__(self, store: Store, avatar_id: str) -> None:
        self.store, self.avatar_id, self.index = store, avatar_id, PassageIndex()
        self._updated_ms: dict[str, int] = {}  # of documents in the index
        self._searching = asyncio.Lock()

    async def __call__(self, questions: list[str]) -> list[Passage]:
        async with self._searching:
            try:
                return await self.store.run(lambda db: self._search(db, questions), writes=False)
            except OperationalError as error:
                log.warning("answered without documents, as the store does not answer: %s", error.orig)
                return []

    def _search(self, db: Db, questions: list[str]) -> list[Passage]:
        self._refresh(db)
        return self.index.search(questions)

    def _refresh(self, db: Db) -> None:
        """Read what has changed since the question before."""
        linked = select(Document.id, Document.updated_ms).join(AvatarDocument)
        rows = db.execute(linked.where(AvatarDocument.avatar_id == self.avatar_id).order_by(AvatarDocument.position))
        current = {row.id: row.updated_ms for row in rows}
        for document_id in self._updated_ms.keys() - current.keys():
            self.index.remove(document_id)
        changed = [each for each, updated_ms in current.items() if self._updated_ms.get(each) != updated_ms]
        for document_id in changed:
            columns = select(Document.name, Document.content).where(Document.id == document_id)
            for name, content in db.execute(columns):
                self.index.add(document_id, name, content)
        self._updated_ms = current
