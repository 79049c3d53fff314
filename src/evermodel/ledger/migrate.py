"""Alembic revisions of the ledger's tables: `open_engine` finds or creates the tables, `migrate` applies missing revisions.

A revision is written by hand and numbered from the one before it. `tables` describes the result of the newest revision; a
test compares the two on SQLite and on PostgreSQL. A revision must leave tables that the version before it can still read
and write, so that a deployment can be rolled back without restoring a backup: add a nullable column; drop a column one
version later. A SQLite file is created or migrated when it is opened. PostgreSQL, which many versions may have open, is
migrated by `evermodel ledger migrate` only.
"""

import tenacity
from sqlalchemy import Engine, insert, select
from sqlalchemy.exc import OperationalError

from evermodel.errors import InputError, IntegrityError
from evermodel.ledger.engine import BUSY_SECONDS, connecting, make_engine, read_revision, writing
from evermodel.ledger.tables import metadata, version

HEAD = "0001"  # the revision of `tables`
NEXT = f"{int(HEAD) + 1:04d}"  # the newest revision that this version can work with
POLL_SECONDS = 0.05  # between two tries to change a file's journal mode


def open_engine(url: str) -> Engine:
    """The engine of a ledger's URL. The database has its tables.

    InputError if the URL can't hold a ledger, or if its ledger was not migrated to this version's tables. IntegrityError
    if the ledger is newer by more than one revision: the next revision keeps what this version reads and writes, so that
    a deployment can be rolled back. `password_file` in the query names a file with the password. It is read for each
    connection, so the password may change; no message shows it.
    """
    engine = make_engine(url)
    if engine.dialect.name == "sqlite":
        _enable_write_ahead_log(engine)
    if (found := read_revision(engine)) is None and engine.dialect.name == "sqlite":
        _create_tables(engine)
        found = read_revision(engine)
    if found is not None and found > NEXT:
        raise IntegrityError(
            f"ledger {engine.url} has schema {found}, but this evermodel knows {HEAD}: install a newer one"
        )
    if found == NEXT:
        return engine
    if found != HEAD and engine.dialect.name == "sqlite":
        migrate(url)
    elif found != HEAD:
        raise InputError(
            f"ledger {engine.url} has schema {found or 'none'}, not {HEAD}: run `evermodel ledger migrate`"
        )
    return engine


def migrate(url: str) -> tuple[str | None, str]:
    """Migrate a ledger's tables to this version's revision; returns the revisions before and after.

    It is one transaction, and no other write of the ledger overlaps it: of two migrations at once the second does
    nothing. A ledger that is newer than this version stays as it is.
    """
    from alembic import command
    from alembic.config import Config

    engine = make_engine(url)
    before = read_revision(engine)
    if before is not None and before > HEAD:
        return before, before
    config = Config()
    config.set_main_option("script_location", "evermodel.ledger:migrations")
    with writing(engine, "migrate") as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # a large table takes long
        config.attributes["connection"] = connection
        command.upgrade(config, HEAD)
    return before, HEAD


def _create_tables(engine: Engine) -> None:
    """Create a new file's tables as of the newest revision. Several processes may do so at once."""
    with writing(engine, "schema") as connection:
        metadata.create_all(connection)
        version.create(connection, checkfirst=True)
        if connection.scalar(select(version.c.version_num)) is None:
            connection.execute(insert(version).values(version_num=HEAD))


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(OperationalError),
    wait=tenacity.wait_fixed(POLL_SECONDS),
    stop=tenacity.stop_after_delay(BUSY_SECONDS),
    reraise=True,
)
def _enable_write_ahead_log(engine: Engine) -> None:
    """Let readers work while there is a writer. The mode is stored in the file, so it is set once.

    Unlike a transaction, a change of the mode does not wait for another process that changes it, so it is retried.
    """
    with connecting(engine) as connection:
        if connection.exec_driver_sql("PRAGMA journal_mode").scalar() != "wal":
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
