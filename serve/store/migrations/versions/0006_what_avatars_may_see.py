"""What avatars may see"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    with op.batch_alter_table("avatars") as table:
        table.add_column(sa.Column("vision", sa.String(length=16), nullable=False, server_default="every_second"))
    with op.batch_alter_table("sessions") as table:
        table.add_column(sa.Column("vision", sa.String(length=16), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("sessions") as table:
        table.drop_column("vision")
    with op.batch_alter_table("avatars") as table:
        table.drop_column("vision")
