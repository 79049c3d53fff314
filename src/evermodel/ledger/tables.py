"""The ledger's tables.

Times are int64 microseconds. `payload` is the record as canonical JSON; the other columns repeat only what queries need.
A change of these tables needs a revision in `migrations/`.
"""

from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Integer, MetaData, String, Table, Text, UniqueConstraint

metadata = MetaData()

# Alembic's own table. It is not part of the metadata that the revisions are compared with.
version = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


def _table(name: str, *columns: Any) -> Table:
    """A table with the order of its rows, their use case, time and record, and `columns`."""
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
    Column("champion", String(64), nullable=False),  # "" if there was none, because a unique constraint ignores nulls
    Column("start", BigInteger, nullable=False),
    Column("end", BigInteger, nullable=False),
    Column("alerted", Boolean, nullable=False),
    UniqueConstraint("use_case", "champion", "start", "end"),
)
decisions = _table(
    "decisions",
    Column("id", String(64), nullable=False),
    Column("action", String(16), nullable=False),
    Column("retrain_key", String(64), unique=True),  # null for a keep
)
runs = _table(
    "runs",
    Column("key", String(64), nullable=False, unique=True),
    Column("decision_id", String(64)),
    Column("champion", String(64), nullable=False),  # when the run was first started; "" if there was none
    Column("owner", String(200), nullable=False),
    Column("grant", BigInteger, nullable=False),  # the grant of the attempt's lease
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
    Column(
        "grant", BigInteger, nullable=False
    ),  # counts how often the lease changed hands, to detect a reclaimed lease
)
