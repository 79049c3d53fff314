"""What Alembic runs: the revisions, on the connection that `migrate` has opened and will commit."""

from alembic import context

from evermodel.errors import InputError
from evermodel.ledger.tables import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise InputError("the ledger's tables are migrated by `evermodel ledger migrate`")
context.configure(connection=connection, target_metadata=metadata)
context.run_migrations()
