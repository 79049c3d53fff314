"""The ledger's tables.

Times are int64 microseconds; what a record holds is its canonical JSON, and columns repeat only what is searched by.
A change of these tables is a revision in `migrations/`.
"""

from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Integer, MetaData, String, Table, Text, UniqueConstraint

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
