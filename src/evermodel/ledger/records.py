"""The ledger's rows as records, and the steps that several of its transactions share.

Every function here runs inside a transaction of `ledger_tables`; none opens its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Row, Select, Table, insert, or_, select, update

from evermodel.clock import from_micros, micros
from evermodel.errors import ConflictError
from evermodel.ledger.tables import alerts, decisions, leases, promotions, releases, runs, windows
from evermodel.records import (
    Alert,
    Artifact,
    Decision,
    MonitoredWindow,
    Promotion,
    Release,
    Time,
    Verdict,
    Window,
    canonical_json,
    sha256,
)

RunState = Literal["running", "promoted", "held", "rejected", "failed"]
FinalState = Literal["promoted", "held", "rejected", "failed"]


class Run(Artifact):
    """What was done for one retrain key."""

    key: str
    use_case: str
    decision: str | None  # its id; None where a person asked for the run
    champion: str | None  # release id, when it was first started
    owner: str
    attempt: int
    state: RunState
    started: Time
    finished: Time | None = None
    result: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies defaults


class Lease(Artifact):
    """Who may run a key, and until when."""

    key: str
    owner: str
    expires: Time


class Failure(Artifact):
    """An error that a run left behind: the orchestrator doesn't carry its cause."""

    use_case: str
    where: str
    message: str
    at: Time


def link(chain: str, payload: str) -> str:
    """The chain of a promotion row, given the chain of the row before it ("" before the first).

    Over the JSON that was stored, not over what today's classes make of it: a new field mustn't break an old row.
    """
    content = {name: value for name, value in json.loads(payload).items() if name != "chain"}
    return sha256((chain + canonical_json(content)).encode())


def rows(connection: Connection, table: Table, use_case: str) -> Sequence[Row[Any]]:
    """A use case's rows in their order of arrival."""
    return connection.execute(select(table).where(table.c.use_case == use_case).order_by(table.c.seq)).all()


def append(connection: Connection, table: Table, artifact: Any, at: datetime, **columns: Any) -> None:
    values = {"use_case": artifact.use_case, "at": micros(at), "payload": artifact.to_json(), **columns}
    connection.execute(insert(table).values(**values))


def promotion_rows(connection: Connection, use_case: str) -> list[Promotion]:
    return [Promotion.from_json(row.payload) for row in rows(connection, promotions, use_case)]


def newest_promotion(connection: Connection, use_case: str) -> Promotion | None:
    query = select(promotions.c.payload).where(promotions.c.use_case == use_case)
    found = connection.scalar(query.order_by(promotions.c.version.desc()).limit(1))
    return Promotion.from_json(found) if found else None


def policy_state_of(history: Sequence[Promotion]) -> list[Release]:
    """The champions that weren't rolled back, the present one last: a promotion adds one, a rollback takes off those
    above the one that it goes back to."""
    standing: list[Release] = []
    for promotion in history:
        ids = [release.id for release in standing]
        if promotion.action == "rollback" and promotion.release.id in ids:
            del standing[ids.index(promotion.release.id) + 1 :]
        else:
            standing.append(promotion.release)
    return standing


def check_expected(release: Release, expected: str | None, newest: Promotion | None) -> None:
    """The compare of compare-and-set."""
    found = newest.release.id if newest else None
    if found == expected:
        return
    by = f" (version {newest.version}, by {newest.actor} at {newest.at.isoformat()})" if newest else ""
    raise ConflictError(
        f"{release.use_case}: release {release.id} was to follow champion {expected}, the champion is {found}{by}; "
        "judge it against that one"
    )


def check_left(release: Release, history: Sequence[Promotion]) -> None:
    """A run that crashed after its promotion, run again after a person's rollback, must not undo the rollback."""
    left = [row for row in history if row.action == "rollback" and row.previous == release.id]
    if left:
        raise ConflictError(
            f"{release.use_case}: release {release.id} was rolled back by {left[-1].actor} "
            f"(version {left[-1].version}: {left[-1].reason}); only a person promotes it again"
        )


def chain_problems(use_case: str, found: Sequence[Row[Any]]) -> list[str]:
    """What is wrong with the promotion rows of a use case, as the audit chain shows it."""
    problems: list[str] = []
    chain, champion = "", None
    for version, row in enumerate(found, start=1):
        name = f"{use_case} promotion {row.version}"
        if row.version != version:
            problems.append(f"{name}: version {version} was expected; a row was removed or inserted")
        try:
            promotion = Promotion.from_json(row.payload)
        except ValueError as error:
            problems.append(f"{name}: can't be read: {error}")
            chain, champion = row.chain, row.release
            continue
        columns = (row.version, row.release, row.chain, row.at)
        if (promotion.version, promotion.release.id, promotion.chain, micros(promotion.at)) != columns:
            problems.append(f"{name}: its columns differ from what it holds")
        if promotion.previous != champion:
            problems.append(f"{name}: follows champion {promotion.previous}, the row before made {champion}")
        if link(chain, row.payload) != row.chain:
            problems.append(f"{name}: its chain doesn't match its content and the row before")
        chain, champion = row.chain, promotion.release.id
    return problems


def insert_release(connection: Connection, release: Release, *, now: datetime, verdict: Verdict | None) -> bool:
    text = verdict.to_json() if verdict else None
    this = (releases.c.use_case == release.use_case) & (releases.c.release == release.id)
    row = connection.execute(select(releases).where(this)).one_or_none()
    if row is None:
        append(connection, releases, release, now, release=release.id, parent=release.parent, verdict=text)
        return True
    if row.verdict is None and text is not None:
        connection.execute(update(releases).where(this).values(verdict=text))
    return False


def insert_alert(connection: Connection, alert: Alert, now: datetime) -> bool:
    if connection.scalar(select(alerts.c.id).where(alerts.c.id == alert.id)):
        return False
    start, end = alert.window.span
    broken = alert.diagnosis == "broken_data"
    columns = {"id": alert.id, "champion": alert.champion, "start": start, "end": end, "broken": broken}
    append(connection, alerts, alert, now, **columns)
    return True


def lease_row(connection: Connection, key: str) -> Row[Any] | None:
    return connection.execute(select(leases).where(leases.c.key == key)).one_or_none()


def live_keys(use_case: str, *, after: int) -> Select[Any]:
    """The leases of a use case's decisions and runs that end later than `after` (microseconds)."""
    decided = select(decisions.c.retrain_key).where(
        decisions.c.use_case == use_case, decisions.c.retrain_key.is_not(None)
    )
    started = select(runs.c.key).where(runs.c.use_case == use_case)
    return select(leases).where(leases.c.expires > after, or_(leases.c.key.in_(decided), leases.c.key.in_(started)))


def lease_of(row: Row[Any]) -> Lease:
    return Lease(key=row.key, owner=row.owner, expires=from_micros(row.expires))


def run_of(row: Row[Any]) -> Run:
    return Run(
        key=row.key,
        use_case=row.use_case,
        decision=row.decision_id,
        champion=row.champion or None,
        owner=row.owner,
        attempt=row.attempt,
        state=row.state,
        started=from_micros(row.at),
        finished=None if row.finished is None else from_micros(row.finished),
        result=json.loads(row.payload),
    )


def end_run(connection: Connection, row: Row[Any], *, state: FinalState, result: dict[str, Any], now: datetime) -> None:
    """The run's end, and its lease's with it."""
    values = {"state": state, "payload": canonical_json(result), "finished": micros(now)}
    connection.execute(update(runs).where(runs.c.seq == row.seq).values(**values))
    mine = (leases.c.key == row.key) & (leases.c.owner == row.owner)
    connection.execute(update(leases).where(mine).values(expires=0))


def ownerless_runs(connection: Connection, use_case: str, now: datetime) -> list[Row[Any]]:
    """Runs that aren't finished, and whose lease nobody holds."""
    live = {row.key for row in connection.execute(live_keys(use_case, after=micros(now)))}
    return [row for row in rows(connection, runs, use_case) if row.state == "running" and row.key not in live]


def close_orphaned_run(connection: Connection, row: Row[Any], *, now: datetime, otherwise: str | None) -> bool:
    """End a run that nobody is left to end: as promoted where its champion was followed by a promotion, as failed where
    by a rollback, or, where the champion is the same still, with the reason `otherwise` if there is one."""
    history = promotion_rows(connection, row.use_case)
    followed = [one for one in history if (one.previous or "") == row.champion and micros(one.at) >= row.at]
    if followed and history[-1].release.id != row.champion:
        after = followed[0]
        state: FinalState = "promoted" if after.action == "promote" else "failed"
        result = {"release": after.release.id, "reasons": [f"its owner was gone; settled by promotion {after.version}"]}
    elif otherwise is not None:
        state, result = "failed", {"reasons": [otherwise]}
    else:
        return False
    end_run(connection, row, state=state, result=result, now=now)
    return True


def retrain_decisions(connection: Connection, use_case: str) -> list[Decision]:
    """The decisions to retrain, under any champion, oldest first."""
    found = rows(connection, decisions, use_case)
    return [Decision.from_json(row.payload) for row in found if row.action == "retrain"]


def recent_windows(
    connection: Connection, use_case: str, champion: str | None, count: int
) -> tuple[MonitoredWindow, ...]:
    """The newest `count` monitored windows of a champion, oldest first. A window alerted where its report says so, or
    where an alert of just that window was recorded by itself."""
    of_alerts = select(alerts.c.payload).where(alerts.c.use_case == use_case, alerts.c.champion == champion)
    single = [Alert.from_json(payload) for payload in connection.scalars(of_alerts)]
    spans = {alert.window.span for alert in single if alert.kind not in ("manual", "schedule")}
    query = select(windows).where(windows.c.use_case == use_case, windows.c.champion == (champion or ""))
    found = connection.execute(query.order_by(windows.c.end.desc(), windows.c.start.desc()).limit(count)).all()
    return tuple(
        MonitoredWindow(
            window=Window(start=from_micros(row.start), end=from_micros(row.end)),
            alerted=row.alerted or (row.start, row.end) in spans,
        )
        for row in reversed(found)
    )
