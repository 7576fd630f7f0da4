"""Run by Alembic: the connection comes from `serve.store.database.migrate`."""

from alembic import context

from serve.store.tables import Table

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Table.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
