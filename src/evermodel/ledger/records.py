"""The ledger's rows as records, and the queries and checks that its transactions use.

Every function with a `connection` runs inside a transaction of `ledger.engine`; none opens its own.
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
    PolicyState,
    Promotion,
    Release,
    Time,
    Verdict,
    Window,
    canonical_json,
    sha256,
)
from evermodel.use_case import UseCase

RunState = Literal["running", "promoted", "held", "rejected", "failed"]
FinalState = Literal["promoted", "held", "rejected", "failed"]


class Run(Artifact):
    """The run of one retrain key."""

    key: str
    use_case: str
    decision: str | None  # its id; None if a person asked for the run
    champion: str | None  # release id, when the run was first started
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
    """The error of a failed run: the orchestrator does not report the cause."""

    use_case: str
    where: str
    message: str
    at: Time


# rows ----------------------------------------------------------------------------------------------------------------


def select_rows(connection: Connection, table: Table, use_case: str) -> Sequence[Row[Any]]:
    """A use case's rows, in the order in which they were inserted."""
    return connection.execute(select(table).where(table.c.use_case == use_case).order_by(table.c.seq)).all()


def insert_row(connection: Connection, table: Table, artifact: Any, at: datetime, **columns: Any) -> None:
    values = {"use_case": artifact.use_case, "at": micros(at), "payload": artifact.to_json(), **columns}
    connection.execute(insert(table).values(**values))


def insert_release(connection: Connection, release: Release, *, now: datetime, verdict: Verdict | None) -> bool:
    """Insert a release, or add a verdict to its row if the row has none. True if the release is new."""
    text = verdict.to_json() if verdict else None
    this = (releases.c.use_case == release.use_case) & (releases.c.release == release.id)
    row = connection.execute(select(releases).where(this)).one_or_none()
    if row is None:
        insert_row(connection, releases, release, now, release=release.id, parent=release.parent, verdict=text)
        return True
    if row.verdict is None and text is not None:
        connection.execute(update(releases).where(this).values(verdict=text))
    return False


def insert_alert(connection: Connection, alert: Alert, now: datetime) -> bool:
    """Insert an alert. False if it has a row already."""
    if connection.scalar(select(alerts.c.id).where(alerts.c.id == alert.id)):
        return False
    start, end = alert.window.span
    broken = alert.diagnosis == "broken_data"
    columns = {"id": alert.id, "champion": alert.champion, "start": start, "end": end, "broken": broken}
    insert_row(connection, alerts, alert, now, **columns)
    return True


# promotions ----------------------------------------------------------------------------------------------------------


def compute_chain(previous: str, payload: str) -> str:
    """The chain of a promotion row: sha256 over the chain of the row before it ("" for the first row) and its content.

    It covers the stored JSON, not today's classes: a new field must not break an old row.
    """
    content = {name: value for name, value in json.loads(payload).items() if name != "chain"}
    return sha256((previous + canonical_json(content)).encode())


def read_promotions(connection: Connection, use_case: str) -> list[Promotion]:
    return [Promotion.from_json(row.payload) for row in select_rows(connection, promotions, use_case)]


def read_newest_promotion(connection: Connection, use_case: str) -> Promotion | None:
    query = select(promotions.c.payload).where(promotions.c.use_case == use_case)
    found = connection.scalar(query.order_by(promotions.c.version.desc()).limit(1))
    return Promotion.from_json(found) if found else None


def list_champions(history: Sequence[Promotion]) -> list[Release]:
    """The champions that were not rolled back, the present one last.

    A promotion adds one. A rollback removes those after the one that it returns to.
    """
    champions: list[Release] = []
    for promotion in history:
        ids = [release.id for release in champions]
        if promotion.action == "rollback" and promotion.release.id in ids:
            del champions[ids.index(promotion.release.id) + 1 :]
        else:
            champions.append(promotion.release)
    return champions


def check_expected(release: Release, expected: str | None, newest: Promotion | None) -> None:
    """The compare of compare-and-set."""
    found = newest.release.id if newest else None
    if found == expected:
        return
    by = f" (version {newest.version}, by {newest.actor} at {newest.at.isoformat()})" if newest else ""
    raise ConflictError(
        f"{release.use_case}: release {release.id} expects champion {expected}, but the champion is {found}{by}; "
        "evaluate the release against that one"
    )


def check_not_rolled_back(release: Release, history: Sequence[Promotion]) -> None:
    """A run that crashed after its promotion and is run again must not undo a person's rollback."""
    rollbacks = [row for row in history if row.action == "rollback" and row.previous == release.id]
    if rollbacks:
        raise ConflictError(
            f"{release.use_case}: release {release.id} was rolled back by {rollbacks[-1].actor} "
            f"(version {rollbacks[-1].version}: {rollbacks[-1].reason}); only a person can promote it again"
        )


def find_chain_problems(use_case: str, found: Sequence[Row[Any]]) -> list[str]:
    """The faults of a use case's promotion rows, as the audit chain shows them."""
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
            problems.append(f"{name}: its columns differ from its content")
        if promotion.previous != champion:
            problems.append(f"{name}: follows champion {promotion.previous}, but the row before made {champion}")
        if compute_chain(chain, row.payload) != row.chain:
            problems.append(f"{name}: its chain does not match its content and the row before")
        chain, champion = row.chain, promotion.release.id
    return problems


# leases and runs -----------------------------------------------------------------------------------------------------


def find_lease(connection: Connection, key: str) -> Row[Any] | None:
    return connection.execute(select(leases).where(leases.c.key == key)).one_or_none()


def select_leases(use_case: str, *, after: int) -> Select[Any]:
    """The leases of a use case's decisions and runs that end later than `after` (microseconds)."""
    decided = select(decisions.c.retrain_key).where(
        decisions.c.use_case == use_case, decisions.c.retrain_key.is_not(None)
    )
    started = select(runs.c.key).where(runs.c.use_case == use_case)
    return select(leases).where(leases.c.expires > after, or_(leases.c.key.in_(decided), leases.c.key.in_(started)))


def to_lease(row: Row[Any]) -> Lease:
    return Lease(key=row.key, owner=row.owner, expires=from_micros(row.expires))


def to_run(row: Row[Any]) -> Run:
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
    """End a run and its lease."""
    values = {"state": state, "payload": canonical_json(result), "finished": micros(now)}
    connection.execute(update(runs).where(runs.c.seq == row.seq).values(**values))
    own = (leases.c.key == row.key) & (leases.c.owner == row.owner)
    connection.execute(update(leases).where(own).values(expires=0))


def find_orphaned_runs(connection: Connection, use_case: str, now: datetime) -> list[Row[Any]]:
    """The unfinished runs without a live lease."""
    live = {row.key for row in connection.execute(select_leases(use_case, after=micros(now)))}
    return [row for row in select_rows(connection, runs, use_case) if row.state == "running" and row.key not in live]


def close_orphaned_run(connection: Connection, row: Row[Any], *, now: datetime, reason: str | None) -> bool:
    """End a run whose owner ended before it. False if the run stays open.

    The run ends as `promoted` if a promotion replaced its champion, and as `failed` if a rollback did. If the champion is
    the same still, the run ends as `failed` with `reason`, or stays open if there is no reason.
    """
    history = read_promotions(connection, row.use_case)
    later = [one for one in history if (one.previous or "") == row.champion and micros(one.at) >= row.at]
    if later and history[-1].release.id != row.champion:
        state: FinalState = "promoted" if later[0].action == "promote" else "failed"
        closed = f"its owner ended before it; promotion {later[0].version} replaced its champion"
        result = {"release": later[0].release.id, "reasons": [closed]}
    elif reason is not None:
        state, result = "failed", {"reasons": [reason]}
    else:
        return False
    end_run(connection, row, state=state, result=result, now=now)
    return True


# the policy's state --------------------------------------------------------------------------------------------------


def read_policy_state(connection: Connection, case: UseCase, *, now: datetime, new_rows: int) -> PolicyState:
    newest = read_newest_promotion(connection, case.name)
    champion = newest.release.id if newest else None
    cursor = newest.release.cursor if newest else None
    retrains = _read_retrain_decisions(connection, case.name)
    last = retrains[-1] if retrains else None
    state = None
    if last is not None:
        state = connection.scalar(select(runs.c.state).where(runs.c.key == last.retrain_key)) or "pending"
    answered = [row.trigger.end for row in retrains if row.trigger and row.champion == champion]
    return PolicyState(
        use_case=case.name,
        champion=champion,
        champion_cursor=cursor,
        champion_since=newest.at if newest else None,
        new_rows=new_rows,
        running=connection.execute(select_leases(case.name, after=micros(now))).first() is not None,
        recent=_read_recent_windows(connection, case.name, champion, case.retraining.n),
        quarantined=_read_broken_windows(connection, case.name, cursor),
        last_retrain=last,
        answered=max(answered, default=None),
        last_retrain_state="pending" if state == "running" else state,
    )


def _read_retrain_decisions(connection: Connection, use_case: str) -> list[Decision]:
    """The decisions to retrain, under any champion, oldest first."""
    found = select_rows(connection, decisions, use_case)
    return [Decision.from_json(row.payload) for row in found if row.action == "retrain"]


def _read_broken_windows(connection: Connection, use_case: str, cursor: datetime | None) -> tuple[Window, ...]:
    """The windows that were diagnosed as broken data under any champion; with a cursor, those that end after it."""
    broken = (alerts.c.use_case == use_case) & alerts.c.broken
    if cursor is not None:
        broken &= alerts.c.end > micros(cursor)
    found = connection.scalars(select(alerts.c.payload).where(broken).order_by(alerts.c.start)).all()
    return tuple(dict.fromkeys(Alert.from_json(payload).window for payload in found))


def _read_recent_windows(
    connection: Connection, use_case: str, champion: str | None, count: int
) -> tuple[MonitoredWindow, ...]:
    """The newest `count` monitored windows of a champion, oldest first.

    A window alerted if its report says so, or if an alert of exactly that window was recorded.
    """
    of_champion = select(alerts.c.payload).where(alerts.c.use_case == use_case, alerts.c.champion == champion)
    recorded = [Alert.from_json(payload) for payload in connection.scalars(of_champion)]
    spans = {alert.window.span for alert in recorded if alert.kind not in ("manual", "schedule")}
    query = select(windows).where(windows.c.use_case == use_case, windows.c.champion == (champion or ""))
    found = connection.execute(query.order_by(windows.c.end.desc(), windows.c.start.desc()).limit(count)).all()
    return tuple(
        MonitoredWindow(
            window=Window(start=from_micros(row.start), end=from_micros(row.end)),
            alerted=row.alerted or (row.start, row.end) in spans,
        )
        for row in reversed(found)
    )
