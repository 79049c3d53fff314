"""Alembic revisions of the ledger's tables: `open_engine` finds or makes the tables, `migrate` applies missing revisions.

A revision is written by hand, numbered on from the one before it; `tables` says what the newest leaves, and a test holds
the two together on SQLite and on PostgreSQL. A revision must leave tables that the version before it can still read and
write, so that a deployment can be rolled back without restoring a backup: add a column that may be null; drop one a
version later. A SQLite file is made, or brought up to date, by whoever opens it; PostgreSQL, which many versions may have
open, is migrated by `evermodel ledger migrate` only.
"""

import time

from sqlalchemy import Engine, insert, select
from sqlalchemy.exc import OperationalError

from evermodel.errors import InputError, IntegrityError
from evermodel.ledger.engine import BUSY_SECONDS, connecting, read_revision, make_engine, writing
from evermodel.ledger.tables import metadata, version

HEAD = "0001"  # the revision that these tables are
NEXT = f"{int(HEAD) + 1:04d}"  # the newest that this version can work with
MODE_SECONDS = 0.05  # between two tries to change a file's mode


def open_engine(url: str) -> Engine:
    """The engine of a ledger's URL, with its tables there.

    InputError where the URL can't hold a ledger, or holds one that was never migrated to this version's tables;
    IntegrityError of one that is newer by more than a revision: the next one leaves what this version reads and writes
    as it is (see `migrations`), so that a deployment can be rolled back. `password_file` in the query names the file of a password: it is read for each
    connection, so that it may change, and is in no message.
    """
    engine = make_engine(url)
    if engine.dialect.name == "sqlite":
        _write_ahead(engine)
    if (found := read_revision(engine)) is None and engine.dialect.name == "sqlite":
        _create(engine)
        found = read_revision(engine)
    if found is not None and found > NEXT:
        raise IntegrityError(f"ledger {engine.url} has schema {found}, this evermodel knows {HEAD}: take a newer one")
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
    """Bring a ledger's tables up to this version's; the revisions before and after.

    One transaction, serialised with every write of the ledger: of two at once the second finds nothing to do. A ledger
    that is newer than this version is left as it is.
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
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # a large table takes its time
        config.attributes["connection"] = connection
        command.upgrade(config, HEAD)
    return before, HEAD


def _create(engine: Engine) -> None:
    """Make a new file's tables as the newest revision leaves them; any number of processes may do so at once."""
    with writing(engine, "schema") as connection:
        metadata.create_all(connection)
        version.create(connection, checkfirst=True)
        if connection.scalar(select(version.c.version_num)) is None:
            connection.execute(insert(version).values(version_num=HEAD))


def _write_ahead(engine: Engine) -> None:
    """Readers don't wait for a writer. The mode stays in the file, so it is set once.

    Unlike a transaction, a change of mode doesn't wait for others that do the same: it is asked for again.
    """
    for left in reversed(range(int(BUSY_SECONDS / MODE_SECONDS))):
        with connecting(engine) as connection:
            try:
                if connection.exec_driver_sql("PRAGMA journal_mode").scalar() != "wal":
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                return
            except OperationalError:
                if left == 0:
                    raise
        time.sleep(MODE_SECONDS)
