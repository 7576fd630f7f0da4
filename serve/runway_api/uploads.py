"""Uploads: a place and a secret that opens it once; the file is kept for a day. And files that may be fetched."""

import secrets
from collections.abc import AsyncIterator
from pathlib import PurePosixPath

from sqlalchemy.orm import Session as Db

from serve.runway_api import answers
from serve.runway_api.call import ApiError, Call, Stored, not_found
from serve.runway_api.media import UPLOADED
from serve.runway_api.requests import NoQuery, UploadRequest
from serve.store.database import Store
from serve.store.files import file_bytes, store_file
from serve.store.keys import digest
from serve.store.tables import File, Upload, new_id, now_ms

UPLOAD_MS = 24 * 3600 * 1000
SECRET_FIELD = "key"


def create(db: Db, call: Call, query: NoQuery, body: UploadRequest) -> answers.Upload:
    secret, name = secrets.token_urlsafe(32), PurePosixPath(body.filename.replace("\\", "/")).name
    upload = Upload(
        id=new_id(), filename=name, secret_sha256=digest(secret), file_id=None, expires_ms=now_ms() + UPLOAD_MS
    )
    db.add(upload)
    return answers.Upload(
        runway_uri=f"{UPLOADED}{upload.id}",
        upload_url=f"{call.base_url}/v1/uploads/{upload.id}",
        fields={SECRET_FIELD: secret},
    )


def check_secret(db: Db, upload_id: str, secret: str) -> Upload:
    """The upload that a secret opens.

    Raises:
        ApiError: the secret is not that of this upload, or was used before.
    """
    upload = db.get(Upload, upload_id, with_for_update=True)
    if upload is None or upload.expires_ms < now_ms():
        raise not_found("upload")
    if upload.secret_sha256 is None or not secrets.compare_digest(upload.secret_sha256, digest(secret)):
        raise ApiError(403, "This upload has been used, or its key is wrong. Begin a new one.")
    return upload


async def receive(store: Store, upload_id: str, secret: str, parts: AsyncIterator[bytes]) -> None:
    """Store the file of an upload as it arrives; its secret is checked before, and can be used once.

    Raises:
        ApiError: as `check_secret`.
    """
    expires_ms = await store.run(lambda db: check_secret(db, upload_id, secret).expires_ms)
    file_id = await store_file(
        store, parts, content_type="application/octet-stream", public=False, expires_ms=expires_ms
    )

    def spend(db: Db) -> None:
        upload = check_secret(db, upload_id, secret)  # somebody may have been faster: this file expires then
        upload.secret_sha256, upload.file_id = None, file_id

    await store.run(spend)


def fetch_file(db: Db, call: Call, query: NoQuery, body: None) -> Stored:
    file = db.get(File, call.id)
    if file is None or not file.public or (file.expires_ms is not None and file.expires_ms < now_ms()):
        raise not_found("file")
    return Stored(file.id, file_bytes(db, file.id), file.content_type)
