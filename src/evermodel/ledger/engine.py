"""The ledger's engine, and its two kinds of transaction.

A write is serialised with every other write of the same ledger, before it reads: SQLite by BEGIN IMMEDIATE, PostgreSQL
by an advisory lock that ends with the transaction. So read, check, write is one step, and compare-and-set needs no more.
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

LOCK = 0x65766572  # the advisory lock's number: "ever"
BUSY_SECONDS = 60
#: A PostgreSQL that is gone, or hangs, is an error within these: a caller that waits for ever can't be told from a dead one.
POSTGRESQL = {
    "connect_timeout": 5,  # seconds
    "options": "-c statement_timeout=30s -c idle_in_transaction_session_timeout=60s",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds
    "application_name": "evermodel",
}


def make_engine(url: str) -> Engine:
    """The engine alone, whatever the database holds."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return _server_engine(parsed)
    if parsed.database in (None, "", ":memory:"):
        raise InputError(f"ledger {url!r} would end with its process; name a file, such as sqlite:///ledger.db")
    storage.make_folder(Path(str(parsed.database)).parent)
    # A connection a transaction: safe across forks and threads, and nothing is held between two writes.
    engine = create_engine(parsed, poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _durable)
    return engine


@lru_cache(maxsize=8)
def _server_engine(url: URL) -> Engine:
    """A process's one pool of connections to a database; each is tried before it is used, so a restart isn't seen."""
    password_file = url.query.get("password_file")
    url = url.difference_update_query(["password_file"])
    arguments = {key: value for key, value in POSTGRESQL.items() if key not in url.query}
    engine = create_engine(
        url, connect_args=arguments, pool_pre_ping=True, pool_recycle=600, pool_size=4, max_overflow=12, pool_timeout=10
    )

    def sign_in(_dialect: Any, _record: Any, _words: Any, parameters: dict[str, Any]) -> None:
        if password_file is not None:
            parameters["password"] = storage.read_text(str(password_file)).rstrip("\n")

    event.listen(engine, "do_connect", sign_in)
    os.register_at_fork(after_in_child=lambda: engine.dispose(close=False))  # they are the parent's, and stay open
    return engine


def _durable(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by us, in words
    connection.execute("PRAGMA synchronous=FULL")


def read_revision(engine: Engine) -> str | None:
    """The revision of the tables that are there; None without any."""
    with connecting(engine) as connection:
        if not inspect(connection).has_table(version.name):
            return None
        found: str | None = connection.scalar(select(version.c.version_num))
    return found


@contextmanager
def connecting(engine: Engine) -> Iterator[Connection]:
    """A connection; EvermodelError, within seconds, where there is no database to connect to."""
    try:
        connection = engine.connect()
    except OperationalError as error:
        raise EvermodelError(f"ledger {engine.url} can't be reached: {error.orig}") from error
    with connection:
        yield connection


@contextmanager
def writing(engine: Engine, step: str) -> Iterator[Connection]:
    """A transaction that no other write overlaps; what it changed is durable when it ends, or nothing is."""
    with connecting(engine) as connection, connection.begin():
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
        yield connection
        failpoint(f"ledger.{step}.before_commit")
    failpoint(f"ledger.{step}.after_commit")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees one instant of the ledger."""
    snapshot = {} if engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
    with connecting(engine) as connection, connection.execution_options(**snapshot).begin():
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN")
        yield connection
