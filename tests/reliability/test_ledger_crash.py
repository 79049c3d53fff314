"""A training round in the ledger, killed at every durable step and run again: it finishes, and no row is doubled."""

import multiprocessing
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evermodel.ledger import Ledger, lease
from evermodel.records import Alert, BundleRef, MonitoringReport, Release, Verdict, Window
from evermodel.retraining.policy import decide
from evermodel.use_case import UseCase

pytestmark = pytest.mark.process

START = datetime(2026, 1, 1, tzinfo=UTC)
WINDOW = Window(start=START, end=START + timedelta(days=7))
NOW = WINDOW.end
PASSED = Verdict(word="promote", reasons=("better",))


def make_release(name: str, parent: str | None, cursor: datetime) -> Release:
    part = BundleRef(objective="up", uri=f"/models/{name}", digest=name)
    return Release(
        use_case="electricity",
        bundles=(part,),
        weights={"up": 1.0},
        cursor=cursor,
        created=NOW,
        home="/",
        parent=parent,
    )


FIRST = make_release("first", None, START)
SECOND = make_release("second", FIRST.id, NOW)


def commit(ledger: Ledger, release: Release, expected: str | None) -> None:
    ledger.record_release(release, now=NOW, verdict=PASSED)
    ledger.promote(release, expected=expected, verdict=PASSED, action="promote", reason="round", actor="test", now=NOW)


def run_round(url: str, case: UseCase) -> None:
    """The first champion, a window that alerts, a decision, the run, the promotion. It can be called again."""
    ledger = Ledger(url)
    if ledger.champion(case.name) is None:
        commit(ledger, FIRST, None)
    alert = Alert(
        use_case=case.name, kind="feature_drift", window=WINDOW, champion=FIRST.id, diagnosis="covariate_shift"
    )
    report = MonitoringReport(
        use_case=case.name, window=WINDOW, champion=FIRST.id, rows=9, matured_rows=9, metric="accuracy",
        performance=0.6, reference=0.8, alerts=(alert,),
    )  # fmt: skip
    ledger.record_window(report, now=NOW)
    ledger.record_alert(alert, now=NOW)
    lease.reap_leases(ledger, case.name, now=NOW)
    state = ledger.policy_state(case, now=NOW, new_rows=1000)
    decision = ledger.record_decision(decide(case, ledger.alerts(case.name), state, now=NOW))
    if decision.action == "keep":
        return
    key, owner = decision.retrain_key, lease.this_process("test")
    granted = lease.start_leased_run(
        ledger, key, use_case=case.name, decision_id=decision.id, owner=owner, now=NOW, seconds=3600
    )
    if granted:
        ledger.renew_lease(key, owner=owner, now=NOW, seconds=3600)
        commit(ledger, SECOND, FIRST.id)
        ledger.finish_run(key, state="promoted", result={"release": SECOND.id}, now=NOW, owner=owner)


def run(url: str, case: UseCase, log: Path, kill_at: int | None) -> bool:
    """One run in a process of its own; returns False if it was killed."""

    def work() -> None:
        os.environ["EVERMODEL_FAILPOINT"] = str(kill_at or "")
        os.environ["EVERMODEL_FAILPOINT_LOG"] = str(log)
        run_round(url, case)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode in (0, -9)
    return process.exitcode == 0


def check(url: str, case: UseCase) -> None:
    ledger = Ledger(url)
    assert ledger.champion(case.name) == SECOND
    assert [row.release for row in ledger.promotions(case.name)] == [FIRST, SECOND]
    assert ledger.verify_chain(case.name) == []
    (done,) = ledger.runs(case.name)
    assert (done.state, done.result["release"]) == ("promoted", SECOND.id)
    assert len(ledger.alerts(case.name)) == len(ledger.monitoring_reports(case.name)) == 1
    assert [row.action for row in ledger.decisions(case.name)].count("retrain") == 1
    assert ledger.leases(case.name) == []
    assert not ledger.policy_state(case, now=NOW, new_rows=0).running


def test_a_round_killed_at_every_durable_step_finishes_when_run_again(electricity: UseCase, tmp_path: Path) -> None:
    log = tmp_path / "hits"
    for step in range(1, 100):
        url = f"sqlite:///{tmp_path}/{step}/ledger.db"
        if run(url, electricity, log, kill_at=step):
            break
        assert run(url, electricity, log, kill_at=None)
        check(url, electricity)
    else:
        pytest.fail("the run never finished")
    check(url, electricity)
    hits = log.read_text().split()
    for name in ("promote", "record_window", "record_alert", "record_decision", "claim", "start_run", "finish_run"):
        assert {f"ledger.{name}.before_commit", f"ledger.{name}.after_commit"} <= set(hits)


def test_a_round_killed_twice_finishes(electricity: UseCase, tmp_path: Path) -> None:
    log = tmp_path / "hits"
    for step in range(3, 24, 4):
        url = f"sqlite:///{tmp_path}/{step}/ledger.db"
        run(url, electricity, log, kill_at=step)
        run(url, electricity, log, kill_at=step)
        assert run(url, electricity, log, kill_at=None)
        check(url, electricity)
