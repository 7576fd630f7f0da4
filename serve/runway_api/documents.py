"""Documents that avatars know."""

from sqlalchemy import delete, select
from sqlalchemy.orm import Session as Db
from sqlalchemy.orm import undefer

from serve.runway_api import answers
from serve.runway_api.answers import Listed, UsedBy, time_of
from serve.runway_api.call import Call, not_found
from serve.runway_api.requests import DocumentChange, DocumentQuery, DocumentRequest, NoQuery
from serve.store.pages import read_page
from serve.store.tables import Avatar, AvatarDocument, Document, PassageVectors, now_ms


def create(db: Db, call: Call, query: NoQuery, body: DocumentRequest) -> answers.Document:
    document = Document(name=body.name, content=body.content)
    db.add(document)
    db.flush()
    db.add(PassageVectors(document_id=document.id))
    db.flush()
    return _whole(db, call, document)


def read(db: Db, call: Call, query: NoQuery, body: None) -> answers.Document:
    return _whole(db, call, found(db, call.id))


def change(db: Db, call: Call, query: NoQuery, body: DocumentChange) -> None:
    document = found(db, call.id)
    document.name, document.content = body.name or document.name, body.content or document.content
    document.updated_ms = max(now_ms(), document.updated_ms + 1)  # whoever has read it sees that it has changed
    db.merge(PassageVectors(document_id=document.id, network=None, vectors=b""))


def remove(db: Db, call: Call, query: NoQuery, body: None) -> None:
    found(db, call.id)
    db.execute(delete(AvatarDocument).where(AvatarDocument.document_id == call.id))
    db.execute(delete(Document).where(Document.id == call.id))


def list_all(db: Db, call: Call, query: DocumentQuery, body: None) -> Listed:
    rows = select(Document)
    if query.avatar_id is not None:
        rows = rows.join(AvatarDocument).where(AvatarDocument.avatar_id == query.avatar_id)
    by = Document.created_ms if query.sort == "createdAt" else Document.updated_ms
    descending = query.order == "desc"
    page = read_page(db, rows, by, cursor=query.cursor, limit=query.limit, descending=descending)
    users = _users(db, call, [row.id for row in page.rows])
    data = [_head(row, users.get(row.id, [])) for row in page.rows]
    return Listed(data=data, has_more=page.next_cursor is not None, next_cursor=page.next_cursor)


def found(db: Db, document_id: str) -> Document:
    document = db.get(Document, document_id, options=[undefer(Document.content)])
    if document is None:
        raise not_found("document")
    return document


def _users(db: Db, call: Call, ids: list[str]) -> dict[str, list[UsedBy]]:
    """Avatars of each document."""
    columns = AvatarDocument.document_id, Avatar.id, Avatar.name, Avatar.processed_id
    query = select(*columns).join(Avatar, Avatar.id == AvatarDocument.avatar_id)
    users: dict[str, list[UsedBy]] = {}
    for document_id, avatar_id, name, image in db.execute(query.where(AvatarDocument.document_id.in_(ids))):
        users.setdefault(document_id, []).append(UsedBy(id=avatar_id, name=name, image_url=call.file_url(image)))
    return users


def _head(document: Document, used_by: list[UsedBy]) -> answers.DocumentHead:
    created, updated = time_of(document.created_ms), time_of(document.updated_ms)
    return answers.DocumentHead(
        id=document.id, name=document.name, used_by=used_by, created_at=created, updated_at=updated
    )


def _whole(db: Db, call: Call, document: Document) -> answers.Document:
    head = _head(document, _users(db, call, [document.id]).get(document.id, []))
    return answers.Document(content=document.content, **head.model_dump())
