"""Vectors of documents' passages"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "passage_vectors",
        sa.Column("document_id", sa.String(length=36), nullable=False),
        sa.Column("network", sa.String(length=64), nullable=True),
        sa.Column("vectors", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["document_id"], ["documents.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("document_id"),
    )
    op.create_index("ix_passage_vectors_network", "passage_vectors", ["network"], unique=False)
    nothing = sa.bindparam("nothing", b"", sa.LargeBinary())
    op.execute(
        sa.text("INSERT INTO passage_vectors (document_id, vectors) SELECT id, :nothing FROM documents").bindparams(
            nothing
        )
    )


def downgrade() -> None:
    op.drop_table("passage_vectors")
