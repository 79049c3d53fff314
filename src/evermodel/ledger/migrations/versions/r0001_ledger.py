"""The ledger's first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    _table(
        "promotions",
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("release", sa.String(64), nullable=False),
        sa.Column("chain", sa.String(64), nullable=False),
        sa.UniqueConstraint("use_case", "version"),
    )
    _table(
        "releases",
        sa.Column("release", sa.String(64), nullable=False),
        sa.Column("parent", sa.String(64)),
        sa.Column("verdict", sa.Text),
        sa.UniqueConstraint("use_case", "release"),
    )
    _table(
        "alerts",
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("champion", sa.String(64)),
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("end", sa.BigInteger, nullable=False),
        sa.Column("broken", sa.Boolean, nullable=False),
    )
    _table(
        "windows",
        sa.Column("champion", sa.String(64), nullable=False),
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("end", sa.BigInteger, nullable=False),
        sa.Column("alerted", sa.Boolean, nullable=False),
        sa.UniqueConstraint("use_case", "champion", "start", "end"),
    )
    _table(
        "decisions",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("retrain_key", sa.String(64), unique=True),
    )
    _table(
        "runs",
        sa.Column("key", sa.String(64), nullable=False, unique=True),
        sa.Column("decision_id", sa.String(64)),
        sa.Column("champion", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("grant", sa.BigInteger, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("finished", sa.BigInteger),
    )
    _table("errors", sa.Column("place", sa.String(200), nullable=False))
    op.create_table(
        "leases",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("grant", sa.BigInteger, nullable=False),
    )


def _table(name: str, *columns: sa.Column | sa.UniqueConstraint) -> None:  # type: ignore[type-arg]
    op.create_table(
        name,
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("use_case", sa.String(200), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        *columns,
    )
    op.create_index(f"ix_{name}_use_case", name, ["use_case"])
