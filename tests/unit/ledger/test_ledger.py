"""The ledger: compare-and-set, one row for a repeated call, one run for each key, and a chain that shows tampering.

Every test runs on SQLite, and on PostgreSQL if its programs are installed.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from evermodel import use_case
from evermodel.clock import micros
from evermodel.errors import ConflictError, InputError, IntegrityError
from evermodel.ledger import Ledger, compute_chain
from evermodel.ledger.engine import make_engine, writing
from evermodel.ledger.migrate import migrate
from evermodel.records import (
    Alert,
    BundleRef,
    Decision,
    Interval,
    MonitoringReport,
    Promotion,
    Release,
    Verdict,
    Window,
)
from evermodel.retraining.policy import decide
from tests.support import ROOT
from tests.support.servers import Server, database_url, postgresql_server
from tests.support.waiting import scaled

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
CASE = "electricity"
PASSED = Verdict(word="promote", difference=Interval(point=0.1, low=0.05, high=0.2), reasons=("better",))


def make_release(name: str, parent: str | None = None, cursor: datetime = NOW) -> Release:
    part = BundleRef(objective="up", uri=f"/models/{name}", digest=name)
    return Release(
        use_case=CASE, bundles=(part,), weights={"up": 1.0}, cursor=cursor, created=NOW, home="/models", parent=parent
    )


def promote(ledger: Ledger, release: Release, expected: str | None, now: datetime = NOW, **more: Any) -> Promotion:
    settings: dict[str, Any] = {"verdict": PASSED, "action": "promote", "reason": "better", "actor": "test"} | more
    return ledger.promote(release, expected=expected, now=now, **settings)


def window(day: int) -> Window:
    return Window(start=NOW + day * DAY, end=NOW + (day + 1) * DAY)


def alert(day: int, champion: str | None, diagnosis: str = "covariate_shift", kind: str = "feature_drift") -> Alert:
    return Alert(use_case=CASE, kind=kind, window=window(day), champion=champion, diagnosis=diagnosis)


def report(day: int, champion: str, *alerts: Alert, performance: float | None = None) -> MonitoringReport:
    return MonitoringReport(
        use_case=CASE,
        window=window(day),
        champion=champion,
        rows=10,
        matured_rows=0,
        metric="accuracy",
        performance=performance,
        reference=0.8,
        alerts=alerts,
    )


def retrain(day: int, champion: str, at: datetime = NOW, reason: str = "drift") -> Decision:
    return Decision(
        use_case=CASE,
        at=at,
        action="retrain",
        reason=reason,
        champion=champion,
        windows=(window(day),),
        trigger=window(day),
    )


@pytest.fixture(scope="module")
def postgresql() -> Iterator[tuple[Server, str]]:
    """A server, and the name of a migrated database to copy."""
    with postgresql_server() as server:
        url = database_url(server)
        migrate(url)
        dispose(url)
        yield server, url.partition("?")[0].rpartition("/")[2]


def dispose(url: str) -> None:
    """Close this process's connections to a database."""
    make_engine(url).dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a new ledger."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/state/ledger.db"
        return
    server, template = request.getfixturevalue("postgresql")
    copy = database_url(server, template=template)
    yield copy
    dispose(copy)


@pytest.fixture
def ledger(url: str) -> Ledger:
    return Ledger(url)


def alter(ledger: Ledger, statement: str, **values: Any) -> int:
    """Change the database as a person with its password can; returns the number of changed rows."""
    with writing(make_engine(ledger.url), "test") as connection:
        return connection.execute(text(statement), values).rowcount


def policy_case(k: int = 1, n: int = 3) -> use_case.UseCase:
    case = use_case.load(ROOT / "use_cases" / "electricity.yaml")
    return case.model_copy(update={"retraining": case.retraining.model_copy(update={"k": k, "n": n})})


# promotions ----------------------------------------------------------------------------------------------------------


def test_the_promotion_row_is_the_champion(ledger: Ledger) -> None:
    assert ledger.champion(CASE) is None
    a, b = make_release("a"), make_release("b")
    first = promote(ledger, a, None)
    second = promote(ledger, b, a.id, NOW + DAY)
    assert (first.version, first.previous, second.version, second.previous) == (1, None, 2, a.id)
    assert ledger.champion(CASE) == b
    assert ledger.previous(CASE) == a
    assert ledger.promotions(CASE) == [first, second]
    assert ledger.verify_chain(CASE) == []


@pytest.mark.parametrize("expected", [None, "somebody"])
def test_another_champion_than_expected_is_a_conflict_that_changes_nothing(
    ledger: Ledger, expected: str | None
) -> None:
    a = make_release("a")
    promote(ledger, a, None)
    with pytest.raises(ConflictError, match=f"the champion is {a.id}"):
        promote(ledger, make_release("b"), expected)
    assert len(ledger.promotions(CASE)) == 1
    assert ledger.champion(CASE) == a


def test_promoting_the_champion_again_returns_its_row(ledger: Ledger) -> None:
    a, b = make_release("a"), make_release("b")
    promote(ledger, a, None)
    row = promote(ledger, b, a.id)
    assert promote(ledger, b, a.id, NOW + DAY, reason="repeated after a crash") == row
    assert len(ledger.promotions(CASE)) == 2


def test_a_repeated_promotion_does_not_undo_a_rollback(ledger: Ledger) -> None:
    a, b = make_release("a"), make_release("b")
    promote(ledger, a, None)
    promote(ledger, b, a.id)
    promote(ledger, a, b.id, action="rollback", reason="complaints", actor="anna")
    with pytest.raises(ConflictError, match="rolled back by anna"):
        promote(ledger, b, a.id)
    assert ledger.champion(CASE) == a
    assert promote(ledger, b, a.id, again=True).version == 4


def test_previous_skips_rolled_back_releases(ledger: Ledger) -> None:
    a, b, c, d = (make_release(name) for name in "abcd")
    for one, expected in ((a, None), (b, a.id), (c, b.id)):
        promote(ledger, one, expected)
    promote(ledger, b, c.id, action="rollback")
    assert ledger.previous(CASE) == a
    promote(ledger, d, b.id)
    assert ledger.previous(CASE) == b


def test_use_cases_are_separate(ledger: Ledger) -> None:
    promote(ledger, make_release("a"), None)
    other = make_release("a").model_copy(update={"use_case": "fraud"})
    assert promote(ledger, other, None).version == 1
    assert ledger.verify_chain(CASE) == ledger.verify_chain("fraud") == []


def test_the_challenger_is_the_newest_child_of_the_champion_that_was_not_rejected(ledger: Ledger) -> None:
    a = make_release("a")
    ledger.record_release(a, now=NOW)
    assert ledger.challenger(CASE) == a
    promote(ledger, a, None)
    assert ledger.challenger(CASE) is None
    held, rejected, stranger = make_release("h", a.id), make_release("r", a.id), make_release("s", "other")
    assert ledger.record_release(held, now=NOW, verdict=Verdict(word="hold"))
    assert not ledger.record_release(held, now=NOW)
    ledger.record_release(rejected, now=NOW)
    assert ledger.challenger(CASE) == rejected
    ledger.record_release(rejected, now=NOW, verdict=Verdict(word="reject"))
    ledger.record_release(stranger, now=NOW)
    assert ledger.challenger(CASE) == held
    assert ledger.find_release(CASE, stranger.id) == stranger
    assert ledger.verdict(CASE, rejected.id) == Verdict(word="reject")
    assert [one.id for one in ledger.releases(CASE)] == [a.id, held.id, rejected.id, stranger.id]


@pytest.mark.parametrize(
    "tampering",
    [
        "update promotions set payload = replace(payload, 'better', 'worse') where version = 2",
        "update promotions set payload = '{}' where version = 2",
        "update promotions set chain = 'x' where version = 2",
        "update promotions set release = 'x' where version = 2",
        "update promotions set at = at + 1 where version = 2",
        "delete from promotions where version = 1",
        "delete from promotions where version = 2",
        "update promotions set version = 7 where version = 3",
        "insert into promotions (use_case, at, payload, version, release, chain) "
        "select use_case, at, payload, 4, release, chain from promotions where version = 3",
    ],
)
def test_a_tampered_chain_is_found(ledger: Ledger, tampering: str) -> None:
    previous = None
    for name in "abc":
        promote(ledger, make_release(name), previous)
        previous = make_release(name).id
    assert ledger.verify_chain(CASE) == []
    assert alter(ledger, tampering) == 1
    assert ledger.verify_chain(CASE)


def test_a_removed_row_is_found_even_if_the_chain_was_computed_again(ledger: Ledger) -> None:
    previous = None
    for name in "abc":
        previous = promote(ledger, make_release(name), previous).release.id
    first, _, third = ledger.promotions(CASE)
    forged = third.model_copy(update={"version": 2})
    forged = forged.model_copy(update={"chain": compute_chain(first.chain, forged.to_json())})
    assert alter(ledger, "delete from promotions where version > 1") == 2
    alter(
        ledger,
        "insert into promotions (use_case, at, payload, version, release, chain)"
        " values (:use_case, :at, :payload, 2, :release, :chain)",
        use_case=CASE,
        at=micros(NOW),
        payload=forged.to_json(),
        release=forged.release.id,
        chain=forged.chain,
    )
    (problem,) = ledger.verify_chain(CASE)
    assert "the row before made" in problem


# monitoring ----------------------------------------------------------------------------------------------------------


def test_an_alert_is_one_row(ledger: Ledger) -> None:
    one = alert(1, "a")
    assert ledger.record_alert(one, now=NOW)
    assert not ledger.record_alert(one.model_copy(update={"diagnosis": "unknown"}), now=NOW + DAY)
    ledger.record_alert(alert(0, "a"), now=NOW + DAY)
    ledger.record_alert(alert(2, None), now=NOW)
    assert ledger.alerts(CASE) == [alert(0, "a"), one, alert(2, None)]
    assert ledger.alerts(CASE, champion="a") == [alert(0, "a"), one]
    assert ledger.alerts(CASE, champion=None) == [alert(2, None)]
    assert ledger.alerts(CASE, since=window(1).start) == [one, alert(2, None)]


def test_a_window_monitored_again_keeps_its_newest_report_and_that_it_alerted(ledger: Ledger) -> None:
    champion = make_release("a", cursor=NOW)
    promote(ledger, champion, None)
    ledger.record_window(report(0, champion.id, alert(0, champion.id)), now=NOW)
    ledger.record_window(report(1, champion.id), now=NOW)
    later = report(0, champion.id, performance=0.7)
    ledger.record_window(later, now=NOW + DAY)
    assert ledger.monitoring_reports(CASE) == [later, report(1, champion.id)]
    recent = ledger.policy_state(policy_case(), now=NOW, new_rows=5).recent
    assert [(one.window, one.alerted) for one in recent] == [(window(0), True), (window(1), False)]


# decisions -----------------------------------------------------------------------------------------------------------


def test_the_first_decision_of_a_retrain_key_stays(ledger: Ledger) -> None:
    first = retrain(0, "a")
    assert ledger.record_decision(first) == first
    assert ledger.record_decision(retrain(0, "a", at=NOW + DAY, reason="asked again")) == first
    other = retrain(1, "a")
    assert ledger.record_decision(other) == other
    assert ledger.decisions(CASE) == [first, other]


def test_a_repeated_keep_is_one_row_until_another_decision(ledger: Ledger) -> None:
    def keep(hour: int, reason: str) -> Decision:
        at = NOW + timedelta(hours=hour)
        return Decision(use_case=CASE, at=at, action="keep", reason=reason, champion="a")

    first = ledger.record_decision(keep(0, "quiet"))
    assert ledger.record_decision(keep(1, "quiet")) == first
    assert ledger.record_decision(keep(2, "cooling down")) == keep(2, "cooling down")
    assert ledger.record_decision(keep(3, "quiet")) == keep(3, "quiet")
    assert [one.reason for one in ledger.decisions(CASE)] == ["quiet", "cooling down", "quiet"]


def test_a_keep_of_an_earlier_version_still_loads(ledger: Ledger) -> None:
    """Earlier versions recorded `unknown` if nothing was diagnosed."""
    keep = Decision(use_case=CASE, at=NOW, action="keep", reason="no alert against champion a", champion="a")
    ledger.record_decision(keep)
    new, old = '"diagnosis":null', '"diagnosis":"unknown"'
    assert alter(ledger, "update decisions set payload = replace(payload, :new, :old)", new=new, old=old) == 1
    assert ledger.decisions(CASE) == [keep.model_copy(update={"diagnosis": "unknown"})]


# leases and runs -----------------------------------------------------------------------------------------------------


def start(ledger: Ledger, key: str, owner: str, now: datetime = NOW) -> bool:
    return ledger.start_run(key, use_case=CASE, decision_id=None, owner=owner, now=now)


def test_a_lease_has_one_owner_until_it_expires(ledger: Ledger) -> None:
    assert ledger.claim_lease("k", owner="one", now=NOW, seconds=60)
    assert ledger.claim_lease("k", owner="one", now=NOW, seconds=60)
    assert not ledger.claim_lease("k", owner="two", now=NOW + timedelta(seconds=59), seconds=60)
    assert ledger.renew_lease("k", owner="one", now=NOW + timedelta(seconds=59), seconds=60)
    assert not ledger.claim_lease("k", owner="two", now=NOW + timedelta(seconds=60), seconds=60)
    assert not ledger.renew_lease("k", owner="two", now=NOW, seconds=60)
    assert ledger.claim_lease("k", owner="two", now=NOW + timedelta(seconds=119), seconds=60)
    assert not ledger.renew_lease("k", owner="one", now=NOW + timedelta(seconds=119), seconds=60)


def test_a_released_lease_is_free(ledger: Ledger) -> None:
    ledger.claim_lease("k", owner="one", now=NOW, seconds=60)
    assert not ledger.release_lease("k", owner="two")
    assert ledger.release_lease("k", owner="one")
    assert not ledger.release_lease("k", owner="one")
    assert ledger.lease("k") is None
    assert ledger.claim_lease("k", owner="two", now=NOW, seconds=60)


def test_a_run_needs_a_live_lease_and_starts_once(ledger: Ledger) -> None:
    assert not start(ledger, "k", "one")
    ledger.claim_lease("k", owner="one", now=NOW, seconds=60)
    assert not start(ledger, "k", "two")
    assert not start(ledger, "k", "one", NOW + timedelta(seconds=60))
    assert start(ledger, "k", "one")
    ledger.claim_lease("k", owner="one", now=NOW, seconds=60)
    assert not start(ledger, "k", "one"), "a second call of the same owner: one run"


def test_a_reclaimed_lease_restarts_an_unfinished_run_and_never_a_finished_one(ledger: Ledger) -> None:
    ledger.claim_lease("k", owner="one", now=NOW, seconds=60)
    assert start(ledger, "k", "one")
    ledger.claim_lease("k", owner="two", now=NOW + DAY, seconds=60)
    assert start(ledger, "k", "two", NOW + DAY)
    (run,) = ledger.runs(CASE)
    assert (run.attempt, run.owner, run.state, run.started) == (2, "two", "running", NOW)
    lost = ledger.finish_run("k", state="promoted", result={}, now=NOW + DAY, owner="one")
    assert lost is not None
    assert lost.state == "running", "an attempt that lost its lease ends nothing"
    done = ledger.finish_run("k", state="held", result={"why": "close"}, now=NOW + DAY, owner="two")
    assert done is not None
    assert (done.state, done.result, done.finished) == ("held", {"why": "close"}, NOW + DAY)
    assert ledger.finish_run("k", state="failed", result={}, now=NOW + 2 * DAY) == done
    assert ledger.claim_lease("k", owner="three", now=NOW + DAY, seconds=60), "the end of the run released the lease"
    assert not start(ledger, "k", "three", NOW + DAY)


def test_one_run_at_a_time_per_use_case(ledger: Ledger) -> None:
    for key in ("k1", "k2"):
        assert ledger.claim_lease(key, owner=key, now=NOW, seconds=60)
    assert start(ledger, "k1", "k1")
    assert not start(ledger, "k2", "k2")
    later = NOW + timedelta(seconds=61)
    ledger.claim_lease("k2", owner="k2", now=later, seconds=60)
    assert start(ledger, "k2", "k2", later)
    first, second = ledger.runs(CASE)
    assert (first.state, second.state) == ("failed", "running")
    assert "run k2 followed" in first.result["reasons"][0]


def test_a_run_that_crashed_after_its_promotion_is_closed(ledger: Ledger) -> None:
    a, b = make_release("a"), make_release("b")
    promote(ledger, a, None)
    ledger.claim_lease("k", owner="one", now=NOW, seconds=60)
    start(ledger, "k", "one")
    later = NOW + timedelta(seconds=61)
    assert ledger.close_orphaned_runs(CASE, now=later) == [], "its champion is unchanged: the run can be restarted"
    promote(ledger, b, a.id)
    assert ledger.close_orphaned_runs(CASE, now=NOW) == [], "its owner may be alive"
    assert ledger.close_orphaned_runs(CASE, now=later) == ["k"]
    (run,) = ledger.runs(CASE)
    assert (run.state, run.result["release"]) == ("promoted", b.id)


def test_finishing_a_key_that_was_never_started_changes_nothing(ledger: Ledger) -> None:
    assert ledger.finish_run("k", state="failed", result={}, now=NOW) is None


def test_errors_are_kept_in_order(ledger: Ledger) -> None:
    for where in ("train", "evaluate"):
        ledger.record_error(CASE, where, f"{where} failed", NOW)
    assert [(one.where, one.message) for one in ledger.errors(CASE)] == [
        ("train", "train failed"),
        ("evaluate", "evaluate failed"),
    ]


# the policy's state ------------------------------------------------------------------------------------------------------------


def test_the_policy_state_has_what_decide_needs(ledger: Ledger) -> None:
    case = policy_case(n=2)
    empty = ledger.policy_state(case, now=NOW, new_rows=0)
    assert (empty.champion, empty.running, empty.recent, empty.last_retrain) == (None, False, (), None)
    a = make_release("a", cursor=window(1).start)
    promote(ledger, a, None)
    for day in range(4):
        ledger.record_window(report(day, a.id), now=NOW)
    ledger.record_alert(alert(3, a.id), now=NOW)
    ledger.record_alert(alert(0, "older", "broken_data", "data_quality"), now=NOW)
    ledger.record_alert(alert(1, "older", "broken_data", "data_quality"), now=NOW)
    found = ledger.policy_state(case, now=NOW, new_rows=7)
    assert (found.champion, found.champion_cursor, found.champion_since) == (a.id, a.cursor, NOW)
    assert [(one.window, one.alerted) for one in found.recent] == [(window(2), False), (window(3), True)]
    assert found.quarantined == (window(1),), "the window before the cursor was trained on or left out already"
    assert (found.new_rows, found.running, found.last_retrain_state) == (7, False, None)


def test_the_policy_state_follows_a_retrain_from_decision_to_end(ledger: Ledger) -> None:
    case = policy_case()
    promote(ledger, make_release("a"), None)
    decision = ledger.record_decision(retrain(0, make_release("a").id))
    key = decision.retrain_key

    def read_state(now: datetime = NOW) -> tuple[str | None, bool]:
        state = ledger.policy_state(case, now=now, new_rows=0)
        assert state.last_retrain == decision
        return state.last_retrain_state, state.running

    assert read_state() == ("pending", False)
    ledger.claim_lease(key, owner="one", now=NOW, seconds=60)
    assert read_state() == ("pending", True), "a claimed key counts as running, so nobody else decides in between"
    start(ledger, key, "one")
    assert read_state() == ("pending", True)
    assert read_state(NOW + DAY) == ("pending", False), "its owner has ended"
    ledger.finish_run(key, state="held", result={}, now=NOW)
    assert read_state() == ("held", False)


def test_a_restored_champion_is_not_retrained_for_the_alerts_of_its_first_time(ledger: Ledger) -> None:
    case = policy_case()
    a, b = make_release("a"), make_release("b", parent="a")
    promote(ledger, a, None)
    ledger.record_alert(alert(0, a.id), now=NOW)
    ledger.record_decision(retrain(0, a.id))
    promote(ledger, b, a.id)
    ledger.record_decision(retrain(1, b.id))
    promote(ledger, a, b.id, action="rollback", verdict=None)
    found = ledger.policy_state(case, now=NOW + 9 * DAY, new_rows=10_000)
    assert (found.last_retrain, found.answered) == (retrain(1, b.id), window(0).end)
    kept = decide(case, ledger.alerts(CASE), found, now=NOW + 9 * DAY)
    assert kept.action == "keep" and "a retrain answered the earlier ones" in kept.reason
    again = decide(case, [*ledger.alerts(CASE), alert(2, a.id)], found, now=NOW + 9 * DAY)
    assert again.action == "retrain" and again.trigger == window(2)


# the file ------------------------------------------------------------------------------------------------------------


def test_a_ledger_that_is_two_revisions_newer_is_refused(ledger: Ledger) -> None:
    alter(ledger, "update alembic_version set version_num = '0003'")
    with pytest.raises(IntegrityError, match="schema 0003"):
        Ledger(ledger.url)
    assert migrate(ledger.url) == ("0003", "0003"), "unchanged"


def test_a_ledger_one_revision_newer_works_after_a_rollback(ledger: Ledger) -> None:
    alter(ledger, "alter table errors add column added_by_the_next_version varchar")
    alter(ledger, "update alembic_version set version_num = '0002'")
    assert migrate(ledger.url) == ("0002", "0002"), "unchanged"
    older = Ledger(ledger.url)
    older.record_error("shop", "here", "why", NOW)
    assert [error.where for error in older.errors("shop")] == ["here"]


def test_a_relative_url_belongs_to_the_folder_in_which_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        Ledger("sqlite:///ledger.db")
        assert (tmp_path / name / "ledger.db").exists()


def test_a_ledger_in_memory_is_refused() -> None:
    with pytest.raises(InputError, match="name a file"):
        Ledger("sqlite://")


def run_together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run `work(i)` in `count` processes that start at once; their results, or the names of their errors."""
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(count), context.Queue()

    def run(i: int) -> None:
        barrier.wait()
        try:
            results.put((i, work(i)))
        except Exception as error:
            results.put((i, type(error).__name__))

    processes = [context.Process(target=run, args=(i,)) for i in range(count)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=scaled(60)) for _ in processes)
    for process in processes:
        process.join()
    return [found[i] for i in range(count)]


def test_many_processes_create_a_file_at_once(tmp_path: Path) -> None:
    for round_ in range(5):
        url = f"sqlite:///{tmp_path}/{round_}/ledger.db"
        assert run_together(8, lambda i, url=url: Ledger(url).champion(CASE)) == [None] * 8


def test_of_many_processes_one_promotes(ledger: Ledger) -> None:
    promote(ledger, make_release("a"), None)
    before = make_release("a").id
    for round_ in range(4):
        found = run_together(8, lambda i, r=round_, b=before: promote(ledger, make_release(f"{r}-{i}"), b).release.id)
        winners = [one for one in found if one != "ConflictError"]
        assert len(winners) == 1
        champion = ledger.champion(CASE)
        assert champion is not None
        assert champion.id == winners[0]
        before = champion.id
    assert len(ledger.promotions(CASE)) == 5
    assert ledger.verify_chain(CASE) == []


def test_of_many_processes_one_runs_a_key(ledger: Ledger) -> None:
    def work(i: int) -> bool:
        claimed = ledger.claim_lease("k", owner=f"owner-{i}", now=NOW, seconds=60)
        return claimed and start(ledger, "k", f"owner-{i}")

    assert sum(run_together(8, work)) == 1
    (run,) = ledger.runs(CASE)
    assert run.attempt == 1


def test_of_many_processes_each_alert_and_decision_is_one_row(ledger: Ledger) -> None:
    def work(i: int) -> tuple[bool, str]:
        new = ledger.record_alert(alert(0, "a"), now=NOW)
        return new, ledger.record_decision(retrain(0, "a", at=NOW + timedelta(seconds=i))).id

    found = run_together(8, work)
    assert sum(new for new, _ in found) == 1
    assert len({decision for _, decision in found}) == 1
    assert len(ledger.decisions(CASE)) == 1
