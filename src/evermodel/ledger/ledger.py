"""The ledger: what was decided, run and promoted, durable and in order. Its promotion row is the commit.

A root module, because registry, monitoring and retraining all write it. Every method is one transaction; asked again
with the same content it changes nothing and gives the row that is there, so that a run that crashed can be run again.

Words. A *lease* is the right to run one retrain key until a time; its *grant* counts how often it changed hands. A *run*
is what was done under it: one a key, restarted only by a reclaimed lease, never once it is finished. The *chain* of a
use case is a sha256 over each promotion row and the chain before it: a changed, removed or inserted row breaks it. Rows
cut off at the end don't: compare the newest chain with the one that the registry mirrors.
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
    append,
    chain_problems,
    check_expected,
    check_left,
    close_orphaned_run,
    end_run,
    insert_alert,
    insert_release,
    lease_of,
    lease_row,
    link,
    live_keys,
    newest_promotion,
    ownerless_runs,
    policy_state_of,
    promotion_rows,
    recent_windows,
    retrain_decisions,
    rows,
    run_of,
)
from evermodel.ledger.tables import (
    alerts,
    decisions,
    errors,
    leases,
    promotions,
    releases,
    runs,
    windows,
)
from evermodel.records import Alert, Decision, MonitoringReport, PolicyState, Promotion, Release, Verdict
from evermodel.use_case import UseCase

__all__ = ["Failure", "Lease", "Ledger", "Run", "link"]


class Ledger:
    """The ledger at a SQLAlchemy URL; its tables are made on first use."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = open_engine(url)

    # releases and promotions -----------------------------------------------------------------------------------------

    def record_release(self, release: Release, *, now: datetime, verdict: Verdict | None = None) -> bool:
        """Make a release known, or add the gate's verdict to one that is. True where it was new."""
        with writing(self._engine, "record_release") as connection:
            return insert_release(connection, release, now=now, verdict=verdict)

    def find_release(self, use_case: str, release_id: str) -> Release | None:
        """A release that is known, by its id."""
        where = (releases.c.use_case == use_case) & (releases.c.release == release_id)
        with reading(self._engine) as connection:
            found = connection.scalar(select(releases.c.payload).where(where))
        return Release.from_json(found) if found else None

    def verdict(self, use_case: str, release_id: str) -> Verdict | None:
        """The gate's word on a release; None where it hasn't been judged."""
        where = (releases.c.use_case == use_case) & (releases.c.release == release_id)
        with reading(self._engine) as connection:
            found = connection.scalar(select(releases.c.verdict).where(where))
        return Verdict.from_json(found) if found else None

    def releases(self, use_case: str) -> list[Release]:
        """All that are known, in the order in which they became so."""
        with reading(self._engine) as connection:
            return [Release.from_json(row.payload) for row in rows(connection, releases, use_case)]

    def challenger(self, use_case: str) -> Release | None:
        """The newest release that came from the champion, was never promoted and wasn't rejected."""
        with reading(self._engine) as connection:
            history = promotion_rows(connection, use_case)
            champion = history[-1].release.id if history else None
            known = rows(connection, releases, use_case)
        promoted = {promotion.release.id for promotion in history}
        for row in reversed(known):
            rejected = row.verdict is not None and Verdict.from_json(row.verdict).word == "reject"
            if row.parent == champion and row.release not in promoted and not rejected:
                return Release.from_json(row.payload)
        return None

    def champion(self, use_case: str) -> Release | None:
        """The release of the newest promotion row."""
        with reading(self._engine) as connection:
            newest = newest_promotion(connection, use_case)
        return newest.release if newest else None

    def previous(self, use_case: str) -> Release | None:
        """What a rollback goes back to: the champion before the present one came, rolled-back ones left out."""
        with reading(self._engine) as connection:
            standing = policy_state_of(promotion_rows(connection, use_case))
        return standing[-2] if len(standing) > 1 else None

    def promotions(self, use_case: str) -> list[Promotion]:
        with reading(self._engine) as connection:
            return promotion_rows(connection, use_case)

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
        """Make `release` the champion where the champion is still `expected` (a release id, None for none).

        The release that is champion already: its row is returned. ConflictError where somebody else's release came
        first, or where this one was champion and was left by a rollback: only a person takes it again (`again`).
        """
        with writing(self._engine, action) as connection:
            history = promotion_rows(connection, release.use_case)
            newest = history[-1] if history else None
            if newest and newest.release.id == release.id:
                return newest
            check_expected(release, expected, newest)
            if action == "promote" and not again:
                check_left(release, history)
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
            row = row.model_copy(update={"chain": link(newest.chain if newest else "", row.to_json())})
            insert_release(connection, release, now=now, verdict=verdict)
            append(connection, promotions, row, now, version=row.version, release=release.id, chain=row.chain)
        return row

    def verify_chain(self, use_case: str) -> list[str]:
        """What is wrong with the audit chain, in plain words; nothing where it is whole."""
        with reading(self._engine) as connection:
            return chain_problems(use_case, rows(connection, promotions, use_case))

    # monitoring ------------------------------------------------------------------------------------------------------

    def record_alert(self, alert: Alert, *, now: datetime) -> bool:
        """False where the alert is there already; the first row stays."""
        with writing(self._engine, "record_alert") as connection:
            return insert_alert(connection, alert, now)

    def alerts(
        self, use_case: str, *, champion: str | EllipsisType | None = ..., since: datetime | None = None
    ) -> list[Alert]:
        """By the end of their window; of one champion only, where one (or None) is given; ended after `since`."""
        query = select(alerts.c.payload).where(alerts.c.use_case == use_case)
        if not isinstance(champion, EllipsisType):
            query = query.where(alerts.c.champion == champion)
        if since is not None:
            query = query.where(alerts.c.end > micros(since))
        with reading(self._engine) as connection:
            found = connection.scalars(query.order_by(alerts.c.end, alerts.c.seq)).all()
        return [Alert.from_json(payload) for payload in found]

    def record_window(self, report: MonitoringReport, *, now: datetime) -> None:
        """Remember a monitored window; its alerts are recorded by themselves.

        A window monitored again, when more labels are known, keeps its newest report; once it alerted, it has.
        """
        key = {
            "use_case": report.use_case,
            "champion": report.champion or "",
            "start": report.window.span[0],
            "end": report.window.span[1],
        }
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
            append(connection, errors, failure, now, place=where)

    def errors(self, use_case: str) -> list[Failure]:
        with reading(self._engine) as connection:
            return [Failure.from_json(row.payload) for row in rows(connection, errors, use_case)]

    # decisions -------------------------------------------------------------------------------------------------------

    def record_decision(self, decision: Decision) -> Decision:
        """The row of this decision: the first of a retrain key; of a keep, the newest row where it says the same.

        So asking twice is one row, whatever the clock says, and the log shows since when something holds.
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
            append(connection, decisions, decision, decision.at, id=decision.id, action=action, retrain_key=key)
        return decision

    def decisions(self, use_case: str) -> list[Decision]:
        """In the order in which they were taken."""
        with reading(self._engine) as connection:
            return [Decision.from_json(row.payload) for row in rows(connection, decisions, use_case)]

    # leases and runs -------------------------------------------------------------------------------------------------

    def claim_lease(self, key: str, *, owner: str, now: datetime, seconds: float) -> bool:
        """Take the lease until `now` + `seconds`. True where it is free, the owner's own, or its time is over."""
        expires = micros(now + timedelta(seconds=seconds))
        with writing(self._engine, "claim") as connection:
            row = lease_row(connection, key)
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
        """Hold on longer. False where the lease is over or somebody else's: stop what runs under it."""
        with writing(self._engine, "renew") as connection:
            row = lease_row(connection, key)
            if row is None or row.owner != owner or row.expires <= micros(now):
                return False
            expires = micros(now + timedelta(seconds=seconds))
            connection.execute(update(leases).where(leases.c.key == key).values(expires=expires))
        return True

    def release_lease(self, key: str, *, owner: str) -> bool:
        """Give the lease back. False where it isn't this owner's. The row stays, so that its grants go on counting."""
        with writing(self._engine, "release") as connection:
            mine = (leases.c.key == key) & (leases.c.owner == owner) & (leases.c.expires > 0)
            return connection.execute(update(leases).where(mine).values(expires=0)).rowcount == 1

    def lease(self, key: str) -> Lease | None:
        """Who holds a key, over or not; None where nobody does."""
        with reading(self._engine) as connection:
            row = lease_row(connection, key)
        return lease_of(row) if row is not None and row.expires > 0 else None

    def leases(self, use_case: str) -> list[Lease]:
        """Those that were claimed for the use case's decisions and runs and not given back, over or not."""
        with reading(self._engine) as connection:
            found = connection.execute(live_keys(use_case, after=0)).all()
        return [lease_of(row) for row in found]

    def start_run(self, key: str, *, use_case: str, decision_id: str | None, owner: str, now: datetime) -> bool:
        """True once for each key: for the lease's owner, and again only for one who reclaimed an unfinished run's lease.

        False where `owner` doesn't hold the lease at `now`, where another key of the use case is running, where this
        one was started under the same grant, or where it is finished.
        """
        with writing(self._engine, "start_run") as connection:
            lease = lease_row(connection, key)
            if lease is None or lease.owner != owner or lease.expires <= micros(now):
                return False
            gone = {row.key: row for row in ownerless_runs(connection, use_case, now) if row.key != key}
            unfinished = {row.key for row in rows(connection, runs, use_case) if row.state == "running"}
            if unfinished - {key} - set(gone):
                return False
            row = connection.execute(select(runs).where(runs.c.key == key)).one_or_none()
            if row is not None and (row.state != "running" or row.grant == lease.grant):
                return False
            for other in gone.values():
                close_orphaned_run(connection, other, now=now, otherwise=f"its owner was gone; run {key} came after it")
            values = {"owner": owner, "grant": lease.grant, "decision_id": decision_id}
            if row is None:
                newest = newest_promotion(connection, use_case)
                champion = newest.release.id if newest else ""
                first = {"key": key, "use_case": use_case, "attempt": 1, "state": "running", "payload": "{}"}
                connection.execute(insert(runs).values(**first, **values, champion=champion, at=micros(now)))
            else:
                connection.execute(update(runs).where(runs.c.key == key).values(attempt=row.attempt + 1, **values))
        return True

    def settle(self, use_case: str, *, now: datetime) -> list[str]:
        """End the runs that a crash left between their promotion and their end; their keys.

        Those are runs without a live lease whose champion has been followed since: they have nothing left to do.
        """
        with writing(self._engine, "settle") as connection:
            gone = ownerless_runs(connection, use_case, now)
            return [row.key for row in gone if close_orphaned_run(connection, row, now=now, otherwise=None)]

    def finish_run(
        self, key: str, *, state: FinalState, result: dict[str, Any], now: datetime, owner: str | None = None
    ) -> Run | None:
        """End a run and its lease; the row as it stands: the first end stays. None where the key was never started.

        With `owner` only that owner's attempt is ended: one that lost its lease changes nothing.
        """
        with writing(self._engine, "finish_run") as connection:
            this = select(runs).where(runs.c.key == key)
            row = connection.execute(this).one_or_none()
            if row is None:
                return None
            if row.state == "running" and owner in (None, row.owner):
                end_run(connection, row, state=state, result=result, now=now)
            return run_of(connection.execute(this).one())

    def runs(self, use_case: str) -> list[Run]:
        """In the order in which they were first started."""
        with reading(self._engine) as connection:
            return [run_of(row) for row in rows(connection, runs, use_case)]

    # what decide needs -----------------------------------------------------------------------------------------------

    def policy_state(self, case: UseCase, *, now: datetime, new_rows: int) -> PolicyState:
        """One instant of the ledger as `decide` sees it. `new_rows` are the matured ones since the champion's cursor."""
        use_case = case.name
        with reading(self._engine) as connection:
            newest = newest_promotion(connection, use_case)
            retrains = retrain_decisions(connection, use_case)
            last = retrains[-1] if retrains else None
            run = None
            if last is not None:
                run = connection.scalar(select(runs.c.state).where(runs.c.key == last.retrain_key)) or "pending"
            cursor = newest.release.cursor if newest else None
            champion = newest.release.id if newest else None
            own = [one.trigger.end for one in retrains if one.trigger and one.champion == champion]
            broken = (alerts.c.use_case == use_case) & alerts.c.broken
            if cursor is not None:
                broken &= alerts.c.end > micros(cursor)
            bad = connection.scalars(select(alerts.c.payload).where(broken).order_by(alerts.c.start)).all()
            return PolicyState(
                use_case=use_case,
                champion=champion,
                champion_cursor=cursor,
                champion_since=newest.at if newest else None,
                new_rows=new_rows,
                running=connection.execute(live_keys(use_case, after=micros(now))).first() is not None,
                recent=recent_windows(connection, use_case, champion, case.retraining.n),
                quarantined=tuple(dict.fromkeys(Alert.from_json(payload).window for payload in bad)),
                last_retrain=last,
                answered=max(own, default=None),
                last_retrain_state="pending" if run == "running" else run,
            )
