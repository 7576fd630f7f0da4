"""The first tables"""

from functools import partial

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

need, may = partial(sa.Column, nullable=False), partial(sa.Column, nullable=True)
ID, TIME = sa.String(length=36), sa.BigInteger()


def named() -> tuple[sa.schema.SchemaItem, ...]:
    return need("id", ID), need("created_ms", TIME), sa.PrimaryKeyConstraint("id")


def work() -> tuple[sa.schema.SchemaItem, ...]:
    return need("status", sa.String(length=16)), may("failure", sa.Text()), may("owner", ID), need("alive_ms", TIME)


def refers(column: str, target: str, on_delete: str | None = None) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [target], ondelete=on_delete)


def index(table: str, *columns: str) -> None:
    with op.batch_alter_table(table, schema=None) as batch_op:
        for column in columns:
            batch_op.create_index(batch_op.f(f"ix_{table}_{column}"), [column], unique=False)


def upgrade() -> None:
    op.create_table(
        "api_keys",
        need("name", sa.String(length=100)),
        need("sha256", sa.String(length=64)),
        need("prefix", sa.String(length=16)),
        need("origins", sa.JSON()),
        may("max_sessions", sa.Integer()),
        may("max_session_s", sa.Integer()),
        may("requests_per_minute", sa.Integer()),
        may("revoked_ms", TIME),
        *named(),
        sa.UniqueConstraint("sha256"),
    )
    index("api_keys", "created_ms")
    op.create_table(
        "documents",
        need("name", sa.String(length=255)),
        need("content", sa.Text()),
        need("updated_ms", TIME),
        *named(),
    )
    index("documents", "created_ms", "updated_ms")
    op.create_table(
        "files",
        need("content_type", sa.String(length=100)),
        need("data", sa.LargeBinary()),
        need("public", sa.Boolean()),
        may("expires_ms", TIME),
        *named(),
    )
    index("files", "created_ms", "expires_ms")
    op.create_table(
        "avatars",
        need("name", sa.String(length=50)),
        need("personality", sa.Text()),
        may("start_script", sa.Text()),
        need("voice", sa.JSON()),
        need("image", sa.Text()),
        need("crops_to_face", sa.Boolean()),
        may("reference_id", ID),
        may("processed_id", ID),
        need("updated_ms", TIME),
        *work(),
        *named(),
        refers("processed_id", "files.id"),
        refers("reference_id", "files.id"),
    )
    index("avatars", "created_ms", "status")
    op.create_table(
        "tasks",
        need("request", sa.JSON()),
        need("progress", sa.Double()),
        may("output_id", ID),
        may("failure_code", sa.String(length=64)),
        *work(),
        *named(),
        refers("output_id", "files.id"),
    )
    index("tasks", "created_ms", "status")
    op.create_table(
        "uploads",
        need("filename", sa.String(length=255)),
        may("secret_sha256", sa.String(length=64)),
        may("file_id", ID),
        need("expires_ms", TIME),
        *named(),
        refers("file_id", "files.id", "SET NULL"),
    )
    index("uploads", "created_ms", "expires_ms")
    op.create_table(
        "voices",
        need("name", sa.String(length=100)),
        may("description", sa.Text()),
        need("source", sa.JSON()),
        need("wish", sa.JSON()),
        may("preview_id", ID),
        *work(),
        *named(),
        refers("preview_id", "files.id"),
    )
    index("voices", "created_ms", "status")
    op.create_table(
        "avatar_documents",
        need("avatar_id", ID),
        need("document_id", ID),
        need("position", sa.Integer()),
        refers("avatar_id", "avatars.id", "CASCADE"),
        refers("document_id", "documents.id", "CASCADE"),
        sa.PrimaryKeyConstraint("avatar_id", "document_id"),
    )
    index("avatar_documents", "document_id")
    op.create_table(
        "sessions",
        may("key_id", ID),
        may("preset", sa.String(length=100)),
        may("avatar_id", ID),
        need("avatar_name", sa.String(length=100)),
        may("personality", sa.Text()),
        may("start_script", sa.Text()),
        need("tools", sa.JSON()),
        may("integration", sa.String(length=32)),
        need("max_s", sa.Integer()),
        need("queued", sa.Boolean()),
        may("session_key", sa.String(length=100)),
        may("expires_ms", TIME),
        need("room", sa.JSON()),
        may("failure_code", sa.String(length=64)),
        may("started_ms", TIME),
        may("ended_ms", TIME),
        *work(),
        *named(),
        refers("avatar_id", "avatars.id", "SET NULL"),
        refers("key_id", "api_keys.id", "SET NULL"),
    )
    index("sessions", "avatar_id", "created_ms", "key_id", "status")
    op.create_index("sessions_by_status_and_owner", "sessions", ["status", "owner"], unique=False)
    op.create_table(
        "entries",
        need("id", ID),
        need("session_id", ID),
        need("position", sa.Integer()),
        need("at_ms", TIME),
        need("role", sa.String(length=16)),
        may("content", sa.Text()),
        need("tool_calls", sa.JSON()),
        need("tool_results", sa.JSON()),
        refers("session_id", "sessions.id", "CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("session_id", "position"),
    )


def downgrade() -> None:
    for table in (
        *("entries", "sessions", "avatar_documents", "voices", "uploads"),
        *("tasks", "avatars", "files", "documents", "api_keys"),
    ):
        op.drop_table(table)
