"""The ledger's tables, its engine, and its two kinds of transaction.

A write is serialised with every other write of the same ledger, before it reads: SQLite by BEGIN IMMEDIATE, PostgreSQL
by an advisory lock that ends with the transaction. So read, check, write is one step, and compare-and-set needs no more.
Times are int64 microseconds; what an artifact holds is its canonical JSON, and columns repeat only what is searched by.

A change of these tables is a revision in `migrations/`, and `HEAD` is the newest one's number. A SQLite file is made, or
brought up, by whoever opens it; on PostgreSQL, which many versions may have open, only `evermodel ledger migrate` does so.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    func,
    insert,
    inspect,
    make_url,
    select,
)
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from evermodel import storage
from evermodel.errors import EvermodelError, IntegrityError, UseCaseError
from evermodel.failpoint import failpoint

HEAD = "0001"  # the revision that these tables are
NEXT = f"{int(HEAD) + 1:04d}"  # the newest that this version can work with
LOCK = 0x65766572  # the advisory lock's number: "ever"
BUSY_SECONDS = 60
MODE_SECONDS = 0.05  # between two tries to change a file's mode
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

metadata = MetaData()

# Alembic's own table, which is no part of the metadata that its revisions are compared with.
version = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


def _table(name: str, *columns: Any) -> Table:
    """A table with its rows' order of arrival, whose use it is, when, and the artifact itself."""
    return Table(
        name,
        metadata,
        Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
        Column("use_case", String(200), nullable=False, index=True),
        Column("at", BigInteger, nullable=False),
        Column("payload", Text, nullable=False),
        *columns,
    )


promotions = _table(
    "promotions",
    Column("version", Integer, nullable=False),
    Column("release", String(64), nullable=False),
    Column("chain", String(64), nullable=False),
    UniqueConstraint("use_case", "version"),
)
releases = _table(
    "releases",
    Column("release", String(64), nullable=False),
    Column("parent", String(64)),
    Column("verdict", Text),
    UniqueConstraint("use_case", "release"),
)
alerts = _table(
    "alerts",
    Column("id", String(64), nullable=False, unique=True),
    Column("champion", String(64)),
    Column("start", BigInteger, nullable=False),
    Column("end", BigInteger, nullable=False),
    Column("broken", Boolean, nullable=False),
)
windows = _table(
    "windows",
    Column("champion", String(64), nullable=False),  # "" where there was none: a null is equal to nothing
    Column("start", BigInteger, nullable=False),
    Column("end", BigInteger, nullable=False),
    Column("alerted", Boolean, nullable=False),
    UniqueConstraint("use_case", "champion", "start", "end"),
)
decisions = _table(
    "decisions",
    Column("id", String(64), nullable=False),
    Column("action", String(16), nullable=False),
    Column("retrain_key", String(64), unique=True),  # null where it is a keep
)
runs = _table(
    "runs",
    Column("key", String(64), nullable=False, unique=True),
    Column("decision_id", String(64)),
    Column("champion", String(64), nullable=False),  # when it was first started; "" where there was none
    Column("owner", String(200), nullable=False),
    Column("grant", BigInteger, nullable=False),  # of the lease that this attempt runs under
    Column("attempt", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("finished", BigInteger),
)
errors = _table("errors", Column("place", String(200), nullable=False))
leases = Table(
    "leases",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("grant", BigInteger, nullable=False),  # counts the times that it changed hands, so that a reclaim shows
)


def open_engine(url: str) -> Engine:
    """The engine of a ledger's URL, with its tables there.

    UseCaseError where the URL can't hold a ledger, or holds one that was never migrated to this version's tables;
    IntegrityError of one that is newer by more than a revision: the next one leaves what this version reads and writes
    as it is (see `migrations`), so that a deployment can be rolled back. `password_file` in the query names the file of a password: it is read for each
    connection, so that it may change, and is in no message.
    """
    engine = make_engine(url)
    if engine.dialect.name == "sqlite":
        _write_ahead(engine)
    if (found := found_version(engine)) is None and engine.dialect.name == "sqlite":
        _create(engine)
        found = found_version(engine)
    if found is not None and found > NEXT:
        raise IntegrityError(f"ledger {engine.url} has schema {found}, this evermodel knows {HEAD}: take a newer one")
    if found == NEXT:
        return engine
    if found != HEAD and engine.dialect.name == "sqlite":
        from evermodel.migrations import migrate

        migrate(url)
    elif found != HEAD:
        raise UseCaseError(
            f"ledger {engine.url} has schema {found or 'none'}, not {HEAD}: run `evermodel ledger migrate`"
        )
    return engine


def make_engine(url: str) -> Engine:
    """The engine alone, whatever the database holds."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return _server_engine(parsed)
    if parsed.database in (None, "", ":memory:"):
        raise UseCaseError(f"ledger {url!r} would end with its process; name a file, such as sqlite:///ledger.db")
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


def found_version(engine: Engine) -> str | None:
    """The revision of the tables that are there; None without any."""
    with connecting(engine) as connection:
        if not inspect(connection).has_table(version.name):
            return None
        found: str | None = connection.scalar(select(version.c.version_num))
    return found


def _create(engine: Engine) -> None:
    """Make a new file's tables as the newest revision leaves them; any number of processes may do so at once."""
    with writing(engine, "schema") as connection:
        metadata.create_all(connection)
        version.create(connection, checkfirst=True)
        if connection.scalar(select(version.c.version_num)) is None:
            connection.execute(insert(version).values(version_num=HEAD))


@contextmanager
def connecting(engine: Engine) -> Iterator[Connection]:
    """A connection; EvermodelError, within seconds, where there is no database to connect to."""
    try:
        connection = engine.connect()
    except OperationalError as error:
        raise EvermodelError(f"ledger {engine.url} can't be reached: {error.orig}") from error
    with connection:
        yield connection


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
