"""The ledger's engine, and its two kinds of transaction.

Writes of one ledger run one after the other: each takes a lock before it reads (SQLite: BEGIN IMMEDIATE; PostgreSQL: an
advisory lock that ends with the transaction). So read, check and write are one step, as compare-and-set needs.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, inspect, make_url, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from evermodel import storage
from evermodel.errors import EvermodelError, InputError
from evermodel.failpoint import failpoint
from evermodel.ledger.tables import version

ADVISORY_LOCK = 0x65766572  # "ever" in ASCII
BUSY_SECONDS = 60  # how long SQLite waits for another writer
#: A PostgreSQL that is down or hangs is an error within these limits: a caller must not wait for ever.
POSTGRESQL_OPTIONS = {
    "connect_timeout": 5,  # seconds
    "options": "-c statement_timeout=30s -c idle_in_transaction_session_timeout=60s",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds
    "application_name": "evermodel",
}


def make_engine(url: str) -> Engine:
    """The engine of a URL. It doesn't look at the database. InputError if the URL is a SQLite database in memory."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return _server_engine(parsed)
    if parsed.database in (None, "", ":memory:"):
        raise InputError(
            f"ledger {url!r} is in memory and ends with its process; name a file, such as sqlite:///ledger.db"
        )
    storage.make_folder(Path(str(parsed.database)).parent)
    # One connection for each transaction: safe across forks and threads, and no lock outlives a transaction.
    engine = create_engine(parsed, poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _configure_sqlite)
    return engine


@lru_cache(maxsize=8)
def _server_engine(url: URL) -> Engine:
    """The process's one pool of connections to a database. Each is tested before use, so a server may restart."""
    password_file = url.query.get("password_file")
    url = url.difference_update_query(["password_file"])
    arguments = {key: value for key, value in POSTGRESQL_OPTIONS.items() if key not in url.query}
    engine = create_engine(
        url, connect_args=arguments, pool_pre_ping=True, pool_recycle=600, pool_size=4, max_overflow=12, pool_timeout=10
    )

    def add_password(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
        if password_file is not None:
            parameters["password"] = storage.read_text(str(password_file)).rstrip("\n")

    event.listen(engine, "do_connect", add_password)
    os.register_at_fork(after_in_child=lambda: engine.dispose(close=False))  # the connections are the parent's
    return engine


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # `writing` and `reading` begin the transactions
    connection.execute("PRAGMA synchronous=FULL")


def read_revision(engine: Engine) -> str | None:
    """The revision of the database's tables; None if it has no tables."""
    with connecting(engine) as connection:
        if not inspect(connection).has_table(version.name):
            return None
        found: str | None = connection.scalar(select(version.c.version_num))
    return found


@contextmanager
def connecting(engine: Engine) -> Iterator[Connection]:
    """A connection; EvermodelError, within seconds, if the database can't be reached."""
    try:
        connection = engine.connect()
    except OperationalError as error:
        raise EvermodelError(f"ledger {engine.url} can't be reached: {error.orig}") from error
    with connection:
        yield connection


@contextmanager
def writing(engine: Engine, step: str) -> Iterator[Connection]:
    """A transaction that no other write overlaps. When it ends, all of its changes are durable, or none is made."""
    with connecting(engine) as connection, connection.begin():
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCK)))
        yield connection
        failpoint(f"ledger.{step}.before_commit")
    failpoint(f"ledger.{step}.after_commit")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A read-only transaction that sees the ledger at one instant."""
    snapshot = {} if engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
    with connecting(engine) as connection, connection.execution_options(**snapshot).begin():
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN")
        yield connection
