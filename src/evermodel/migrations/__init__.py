"""Alembic revisions of the ledger's tables, oldest first, and `migrate`, which applies those that are missing.

A revision is written by hand, numbered on from the one before it; `ledger_tables` says what the newest leaves, and a test
holds the two together on SQLite and on PostgreSQL. It must leave tables that the version before it can still read and write, so that
a deployment can be rolled back without restoring a backup: add a column that may be null; drop one a version later.
"""

from evermodel.ledger_tables import HEAD, found_version, make_engine, writing


def migrate(url: str) -> tuple[str | None, str]:
    """Bring a ledger's tables up to this version's; the revisions before and after.

    One transaction, serialised with every write of the ledger: of two at once the second finds nothing to do. A ledger
    that is newer than this version is left as it is.
    """
    from alembic import command
    from alembic.config import Config

    engine = make_engine(url)
    before = found_version(engine)
    if before is not None and before > HEAD:
        return before, before
    config = Config()
    config.set_main_option("script_location", "evermodel:migrations")
    with writing(engine, "migrate") as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # a large table takes its time
        config.attributes["connection"] = connection
        command.upgrade(config, HEAD)
    return before, HEAD
