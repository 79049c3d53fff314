"""The ledger: the durable, ordered record of decisions, runs and promotions. Its promotion row is the commit.

Every method is one transaction. A repeated call with the same content changes nothing and returns the existing row, so a
run that crashed can be run again.

A *lease* is the right to run one retrain key until a time. Its *grant* counts how often the lease changed hands. A *run*
is the work under a lease: each key has one run, which only a reclaimed lease restarts, and never once it is finished.
The *chain* of a use case is a sha256 over each promotion row and the chain before it: a changed, removed or inserted row
breaks it. Rows removed from the end do not: compare the newest chain with its copy in the registry.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from types import EllipsisType
from typing import Any, Literal

from sqlalchemy import insert, select, update

from evermodel.clock import micros
from evermodel.ledger.engine import reading, writing
from evermodel.ledger.migrate import open_engine
from evermodel.ledger.records import (
    Failure,
    FinalState,
    Lease,
    Run,
    check_expected,
    check_not_rolled_back,
    close_orphaned_run,
    compute_chain,
    end_run,
    find_chain_problems,
    find_lease,
    find_orphaned_runs,
    insert_alert,
    insert_release,
    insert_row,
    list_champions,
    read_newest_promotion,
    read_policy_state,
    read_promotions,
    select_leases,
    select_rows,
    to_lease,
    to_run,
)
from evermodel.ledger.tables import alerts, decisions, errors, leases, promotions, releases, runs, windows
from evermodel.records import Alert, Decision, MonitoringReport, PolicyState, Promotion, Release, Verdict
from evermodel.use_case import UseCase


class Ledger:
    """The ledger at a SQLAlchemy URL. A SQLite file and its tables are created on first use."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = open_engine(url)

    # releases and promotions -----------------------------------------------------------------------------------------

    def record_release(self, release: Release, *, now: datetime, verdict: Verdict | None = None) -> bool:
        """Record a release, or add the gate's verdict to a recorded one. True if the release is new."""
        with writing(self._engine, "record_release") as connection:
            return insert_release(connection, release, now=now, verdict=verdict)

    def find_release(self, use_case: str, release_id: str) -> Release | None:
        """The release of this id; None if it is not recorded."""
        this = (releases.c.use_case == use_case) & (releases.c.release == release_id)
        with reading(self._engine) as connection:
            found = connection.scalar(select(releases.c.payload).where(this))
        return Release.from_json(found) if found else None

    def verdict(self, use_case: str, release_id: str) -> Verdict | None:
        """The gate's verdict on a release; None if it was not evaluated."""
        this = (releases.c.use_case == use_case) & (releases.c.release == release_id)
        with reading(self._engine) as connection:
            found = connection.scalar(select(releases.c.verdict).where(this))
        return Verdict.from_json(found) if found else None

    def releases(self, use_case: str) -> list[Release]:
        """All recorded releases, in the order in which they were recorded."""
        with reading(self._engine) as connection:
            return [Release.from_json(row.payload) for row in select_rows(connection, releases, use_case)]

    def challenger(self, use_case: str) -> Release | None:
        """The newest child of the champion that was never promoted and was not rejected."""
        with reading(self._engine) as connection:
            history = read_promotions(connection, use_case)
            recorded = select_rows(connection, releases, use_case)
        champion = history[-1].release.id if history else None
        promoted = {promotion.release.id for promotion in history}
        for row in reversed(recorded):
            rejected = row.verdict is not None and Verdict.from_json(row.verdict).word == "reject"
            if row.parent == champion and row.release not in promoted and not rejected:
                return Release.from_json(row.payload)
        return None

    def champion(self, use_case: str) -> Release | None:
        """The release of the newest promotion row; None if nothing was promoted yet."""
        with reading(self._engine) as connection:
            newest = read_newest_promotion(connection, use_case)
        return newest.release if newest else None

    def previous(self, use_case: str) -> Release | None:
        """The release that a rollback returns to: the champion before the present one, without rolled-back ones."""
        with reading(self._engine) as connection:
            champions = list_champions(read_promotions(connection, use_case))
        return champions[-2] if len(champions) > 1 else None

    def promotions(self, use_case: str) -> list[Promotion]:
        """All promotions and rollbacks, oldest first."""
        with reading(self._engine) as connection:
            return read_promotions(connection, use_case)

    def promote(
        self,
        release: Release,
        *,
        expected: str | None,
        verdict: Verdict | None,
        action: Literal["promote", "rollback"],
        reason: str,
        actor: str,
        now: datetime,
        again: bool = False,
    ) -> Promotion:
        """Make `release` the champion if the champion is still `expected` (a release id; None if there is none).

        Returns the existing row if `release` is the champion already. ConflictError if another release became champion
        first, or if a rollback replaced this release: only a person promotes it again (`again`).
        """
        with writing(self._engine, action) as connection:
            history = read_promotions(connection, release.use_case)
            newest = history[-1] if history else None
            if newest and newest.release.id == release.id:
                return newest
            check_expected(release, expected, newest)
            if action == "promote" and not again:
                check_not_rolled_back(release, history)
            row = Promotion(
                use_case=release.use_case,
                version=newest.version + 1 if newest else 1,
                release=release,
                previous=expected,
                action=action,
                verdict=verdict,
                reason=reason,
                actor=actor,
                at=now,
                chain="",
            )
            row = row.model_copy(update={"chain": compute_chain(newest.chain if newest else "", row.to_json())})
            insert_release(connection, release, now=now, verdict=verdict)
            insert_row(connection, promotions, row, now, version=row.version, release=release.id, chain=row.chain)
        return row

    def verify_chain(self, use_case: str) -> list[str]:
        """The faults of the audit chain, in plain words; empty if it is whole."""
        with reading(self._engine) as connection:
            return find_chain_problems(use_case, select_rows(connection, promotions, use_case))

    # monitoring ------------------------------------------------------------------------------------------------------

    def record_alert(self, alert: Alert, *, now: datetime) -> bool:
        """False if the alert is recorded already; the first row stays."""
        with writing(self._engine, "record_alert") as connection:
            return insert_alert(connection, alert, now)

    def alerts(
        self, use_case: str, *, champion: str | EllipsisType | None = ..., since: datetime | None = None
    ) -> list[Alert]:
        """The alerts by the end of their windows.

        With `champion`, only that champion's; None selects the alerts without a champion. With `since`, only the alerts
        whose window ended after it.
        """
        query = select(alerts.c.payload).where(alerts.c.use_case == use_case)
        if not isinstance(champion, EllipsisType):
            query = query.where(alerts.c.champion == champion)
        if since is not None:
            query = query.where(alerts.c.end > micros(since))
        with reading(self._engine) as connection:
            found = connection.scalars(query.order_by(alerts.c.end, alerts.c.seq)).all()
        return [Alert.from_json(payload) for payload in found]

    def record_window(self, report: MonitoringReport, *, now: datetime) -> None:
        """Record the report of a monitored window. Its alerts are recorded by `record_alert`.

        A window that is monitored again, when more labels are known, keeps its newest report. Once it alerted, it stays
        alerted.
        """
        start, end = report.window.span
        key = {"use_case": report.use_case, "champion": report.champion or "", "start": start, "end": end}
        with writing(self._engine, "record_window") as connection:
            row = connection.execute(select(windows).filter_by(**key)).one_or_none()
            alerted = bool(report.alerts) or (row is not None and row.alerted)
            values = {"at": micros(now), "payload": report.to_json(), "alerted": alerted}
            if row is None:
                connection.execute(insert(windows).values(**key, **values))
            else:
                connection.execute(update(windows).where(windows.c.seq == row.seq).values(**values))

    def monitoring_reports(self, use_case: str) -> list[MonitoringReport]:
        """The newest report of each monitored window, by the window's end."""
        query = select(windows.c.payload).where(windows.c.use_case == use_case).order_by(windows.c.end, windows.c.seq)
        with reading(self._engine) as connection:
            return [MonitoringReport.from_json(payload) for payload in connection.scalars(query)]

    def record_error(self, use_case: str, where: str, message: str, now: datetime) -> None:
        failure = Failure(use_case=use_case, where=where, message=message, at=now)
        with writing(self._engine, "record_error") as connection:
            insert_row(connection, errors, failure, now, place=where)

    def errors(self, use_case: str) -> list[Failure]:
        with reading(self._engine) as connection:
            return [Failure.from_json(row.payload) for row in select_rows(connection, errors, use_case)]

    # decisions -------------------------------------------------------------------------------------------------------

    def record_decision(self, decision: Decision) -> Decision:
        """Record a decision, and return its row.

        A retrain key has one row, its first. A keep with the same content as the newest row has no row of its own. So a
        repeated decision is one row at any time, and the log shows since when it holds.
        """
        key = decision.retrain_key if decision.action == "retrain" else None
        with writing(self._engine, "record_decision") as connection:
            if key is not None:
                same = decisions.c.retrain_key == key
            else:
                of_use_case = select(decisions.c.seq).where(decisions.c.use_case == decision.use_case)
                same = decisions.c.seq == of_use_case.order_by(decisions.c.seq.desc()).limit(1).scalar_subquery()
            found = connection.scalar(select(decisions.c.payload).where(same))
            if found:
                row = Decision.from_json(found)
                if key is not None or row == decision.model_copy(update={"at": row.at}):
                    return row
            action = decision.action
            insert_row(connection, decisions, decision, decision.at, id=decision.id, action=action, retrain_key=key)
        return decision

    def decisions(self, use_case: str) -> list[Decision]:
        """In the order in which they were recorded."""
        with reading(self._engine) as connection:
            return [Decision.from_json(row.payload) for row in select_rows(connection, decisions, use_case)]

    # leases and runs -------------------------------------------------------------------------------------------------

    def claim_lease(self, key: str, *, owner: str, now: datetime, seconds: float) -> bool:
        """Take the lease until `now` + `seconds`. True if it is free, has expired, or is the owner's own."""
        expires = micros(now + timedelta(seconds=seconds))
        with writing(self._engine, "claim") as connection:
            row = find_lease(connection, key)
            if row is None:
                connection.execute(insert(leases).values(key=key, owner=owner, expires=expires, grant=1))
                return True
            live = row.expires > micros(now)
            if live and row.owner != owner:
                return False
            grant = row.grant if live else row.grant + 1
            values = {"owner": owner, "expires": expires, "grant": grant}
            connection.execute(update(leases).where(leases.c.key == key).values(**values))
        return True

    def renew_lease(self, key: str, *, owner: str, now: datetime, seconds: float) -> bool:
        """Extend the lease. False if it has expired or has another owner: then stop the work under it."""
        with writing(self._engine, "renew") as connection:
            row = find_lease(connection, key)
            if row is None or row.owner != owner or row.expires <= micros(now):
                return False
            expires = micros(now + timedelta(seconds=seconds))
            connection.execute(update(leases).where(leases.c.key == key).values(expires=expires))
        return True

    def release_lease(self, key: str, *, owner: str) -> bool:
        """Give the lease back. False if it is not this owner's. The row stays, because it counts the grants."""
        with writing(self._engine, "release") as connection:
            own = (leases.c.key == key) & (leases.c.owner == owner) & (leases.c.expires > 0)
            return connection.execute(update(leases).where(own).values(expires=0)).rowcount == 1

    def lease(self, key: str) -> Lease | None:
        """The lease of a key, expired or not; None if nobody holds it."""
        with reading(self._engine) as connection:
            row = find_lease(connection, key)
        return to_lease(row) if row is not None and row.expires > 0 else None

    def leases(self, use_case: str) -> list[Lease]:
        """The leases of the use case's decisions and runs that were not given back, expired or not."""
        with reading(self._engine) as connection:
            found = connection.execute(select_leases(use_case, after=0)).all()
        return [to_lease(row) for row in found]

    def start_run(self, key: str, *, use_case: str, decision_id: str | None, owner: str, now: datetime) -> bool:
        """Start the run of a key, or restart it if `owner` reclaimed the lease of the unfinished run.

        False if `owner` does not hold the lease at `now`, if another key of the use case is running, if the run was
        started under the same grant, or if it is finished.
        """
        with writing(self._engine, "start_run") as connection:
            lease = find_lease(connection, key)
            if lease is None or lease.owner != owner or lease.expires <= micros(now):
                return False
            orphaned = {row.key: row for row in find_orphaned_runs(connection, use_case, now) if row.key != key}
            unfinished = {row.key for row in select_rows(connection, runs, use_case) if row.state == "running"}
            if unfinished - {key} - set(orphaned):
                return False
            row = connection.execute(select(runs).where(runs.c.key == key)).one_or_none()
            if row is not None and (row.state != "running" or row.grant == lease.grant):
                return False
            for other in orphaned.values():
                close_orphaned_run(connection, other, now=now, reason=f"its owner ended before it; run {key} followed")
            values = {"owner": owner, "grant": lease.grant, "decision_id": decision_id}
            if row is None:
                newest = read_newest_promotion(connection, use_case)
                champion = newest.release.id if newest else ""
                first = {"key": key, "use_case": use_case, "attempt": 1, "state": "running", "payload": "{}"}
                connection.execute(insert(runs).values(**first, **values, champion=champion, at=micros(now)))
            else:
                connection.execute(update(runs).where(runs.c.key == key).values(attempt=row.attempt + 1, **values))
        return True

    def close_orphaned_runs(self, use_case: str, *, now: datetime) -> list[str]:
        """End the runs that a crash left between their promotion and their end; returns their keys.

        These are the runs without a live lease whose champion was replaced since: they have no work left.
        """
        with writing(self._engine, "close_orphaned_runs") as connection:
            orphaned = find_orphaned_runs(connection, use_case, now)
            return [row.key for row in orphaned if close_orphaned_run(connection, row, now=now, reason=None)]

    def finish_run(
        self, key: str, *, state: FinalState, result: dict[str, Any], now: datetime, owner: str | None = None
    ) -> Run | None:
        """End a run and its lease, and return its row; None if the key was never started. The first end stays.

        With `owner`, only that owner's attempt ends: an attempt that lost its lease changes nothing.
        """
        with writing(self._engine, "finish_run") as connection:
            this = select(runs).where(runs.c.key == key)
            row = connection.execute(this).one_or_none()
            if row is None:
                return None
            if row.state == "running" and owner in (None, row.owner):
                end_run(connection, row, state=state, result=result, now=now)
            return to_run(connection.execute(this).one())

    def runs(self, use_case: str) -> list[Run]:
        """In the order in which they were first started."""
        with reading(self._engine) as connection:
            return [to_run(row) for row in select_rows(connection, runs, use_case)]

    # the policy's state ----------------------------------------------------------------------------------------------

    def policy_state(self, case: UseCase, *, now: datetime, new_rows: int) -> PolicyState:
        """The state that `decide` needs, at one instant. `new_rows` are the matured rows since the champion's cursor."""
        with reading(self._engine) as connection:
            return read_policy_state(connection, case, now=now, new_rows=new_rows)
