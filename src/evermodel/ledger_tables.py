"""The ledger's tables, its engine, and its two kinds of transaction.

A write is serialised with every other write of the same ledger, before it reads: SQLite by BEGIN IMMEDIATE, PostgreSQL
by an advisory lock that ends with the transaction. So read, check, write is one step, and compare-and-set needs no more.
Times are int64 microseconds; what an artifact holds is its canonical JSON, and columns repeat only what is searched by.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
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
from sqlalchemy.pool import NullPool

from evermodel import storage
from evermodel.errors import IntegrityError, UseCaseError
from evermodel.failpoint import failpoint

SCHEMA_VERSION = 1
LOCK = 0x65766572  # the advisory lock's number: "ever"
BUSY_SECONDS = 60

metadata = MetaData()

schema = Table("evermodel_schema", metadata, Column("version", Integer, primary_key=True))


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
    """The engine of a ledger's URL, with its tables there. UseCaseError where the URL can't hold a ledger."""
    parsed = make_url(url)
    arguments: dict[str, Any] = {}
    local = parsed.get_backend_name() == "sqlite"
    if local:
        if parsed.database in (None, "", ":memory:"):
            raise UseCaseError(f"ledger {url!r} would end with its process; name a file, such as sqlite:///ledger.db")
        storage.make_folder(Path(str(parsed.database)).parent)
        arguments = {"timeout": BUSY_SECONDS}
    # A connection a transaction: safe across forks and threads, and nothing is held between two writes.
    engine = create_engine(parsed, poolclass=NullPool, connect_args=arguments)
    if local:
        event.listen(engine, "connect", _durable)
    _create(engine, url)
    return engine


def _durable(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by us, in words
    connection.execute("PRAGMA synchronous=FULL")


def _create(engine: Engine, url: str) -> None:
    """Make the schema on first use; any number of processes may do so at once."""
    if engine.dialect.name == "sqlite":
        _write_ahead(engine)
    with engine.connect() as connection:
        found = inspect(connection).has_table(schema.name)
    if not found:
        with writing(engine, "schema") as connection:
            metadata.create_all(connection)
            if connection.scalar(select(schema.c.version)) is None:
                connection.execute(insert(schema).values(version=SCHEMA_VERSION))
    with reading(engine) as connection:
        version = connection.scalar(select(schema.c.version))
    if version != SCHEMA_VERSION:
        raise IntegrityError(f"ledger {url} has schema {version}, this evermodel reads {SCHEMA_VERSION}")


def _write_ahead(engine: Engine) -> None:
    """Readers don't wait for a writer. The mode stays in the file, so it is set once."""
    with engine.connect() as connection:
        if connection.exec_driver_sql("PRAGMA journal_mode").scalar() != "wal":
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")


@contextmanager
def writing(engine: Engine, step: str) -> Iterator[Connection]:
    """A transaction that no other write overlaps; what it changed is durable when it ends, or nothing is."""
    with engine.connect() as connection, connection.begin():
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
    with engine.connect().execution_options(**snapshot) as connection, connection.begin():
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN")
        yield connection
