"""Runs the revisions for Alembic, on the connection that `migrate` opens and commits."""

from alembic import context

from evermodel.errors import InputError
from evermodel.ledger.tables import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise InputError("use `evermodel ledger migrate` to migrate the ledger")
context.configure(connection=connection, target_metadata=metadata)
context.run_migrations()
