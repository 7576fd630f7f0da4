"""Limits of one visitor and of one page, and meetings"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

ID, TIME, DIGEST = sa.String(length=36), sa.BigInteger(), sa.String(length=64)


def upgrade() -> None:
    with op.batch_alter_table("api_keys") as table:
        table.add_column(sa.Column("sessions_per_visitor", sa.Integer(), nullable=True))
        table.add_column(sa.Column("sessions_per_origin", sa.Integer(), nullable=True))
    with op.batch_alter_table("sessions") as table:
        table.add_column(sa.Column("visitor", DIGEST, nullable=True))
        table.add_column(sa.Column("origin", sa.String(length=255), nullable=True))
    op.create_table(
        "meetings",
        sa.Column("provider", sa.String(length=16), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("bot_name", sa.String(length=100), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("base_url", sa.Text(), nullable=False),
        sa.Column("token_sha256", DIGEST, nullable=True),
        sa.Column("bot_id", sa.String(length=100), nullable=True),
        sa.Column("session_id", ID, nullable=True),
        sa.Column("joins", sa.Integer(), nullable=False),
        sa.Column("open_until_ms", TIME, nullable=False),
        sa.Column("failure_code", sa.String(length=64), nullable=True),
        sa.Column("ended_ms", TIME, nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("owner", ID, nullable=True),
        sa.Column("alive_ms", TIME, nullable=False),
        sa.Column("id", ID, nullable=False),
        sa.Column("created_ms", TIME, nullable=False),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id"),
    )
    for column in ("created_ms", "status", "session_id"):
        op.create_index(f"ix_meetings_{column}", "meetings", [column], unique=False)


def downgrade() -> None:
    op.drop_table("meetings")
    with op.batch_alter_table("sessions") as table:
        table.drop_column("origin")
        table.drop_column("visitor")
    with op.batch_alter_table("api_keys") as table:
        table.drop_column("sessions_per_origin")
        table.drop_column("sessions_per_visitor")
