"""The API: reads the ledger; actions record the actor and the reason in it."""

from datetime import timedelta
from threading import Event

import httpx
import pytest
from sqlalchemy import create_engine, update
from sqlalchemy.exc import OperationalError

from evermodel import storage
from evermodel.control.service import ServingClient
from evermodel.ledger.tables import promotions
from evermodel.records import Window
from tests.support.ledger_history import HELD_RUN, NAME, NOW
from tests.unit.control.control_cases import BrokenLedger, ControlHarness, bearer


def get(control: ControlHarness, path: str) -> httpx.Response:
    return control.client(**bearer("eve")).get(f"/api/v1/{path}")


def act(control: ControlHarness, action: str, **body: object) -> httpx.Response:
    return control.client(**bearer("ops")).post(f"/api/v1/{NAME}/{action}", json=body)


@pytest.mark.parametrize(
    ("kind", "count"),
    [("alerts", 5), ("decisions", 8), ("leases", 0), ("runs", 4), ("promotions", 4), ("windows", 12), ("errors", 0)],
)
def test_the_ledgers_rows_can_be_read(unchanged: ControlHarness, kind: str, count: int) -> None:
    rows = get(unchanged, f"{NAME}/{kind}").json()
    assert len(rows) == count
    if count:
        assert get(unchanged, f"{NAME}/{kind}?limit=1").json() == rows[-1:]


def test_the_overview_has_one_row_for_each_use_case(unchanged: ControlHarness) -> None:
    (row,) = get(unchanged, "use-cases").json()
    champion = unchanged.service.ledger.champion(NAME)
    assert champion is not None
    assert (row["use_case"], row["champion"], row["metric"]) == (NAME, champion.id, "ndcg")
    assert (row["performance"], row["open_alerts"], row["last_run"]["state"]) == (0.7012, 0, "held")
    assert row["age_seconds"] == pytest.approx((NOW - unchanged.service.ledger.promotions(NAME)[-1].at).total_seconds())


def test_an_unknown_use_case_gets_the_nearest_name(unchanged: ControlHarness) -> None:
    answer = get(unchanged, "restaurant/runs")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_use_case")
    assert "did you mean 'restaurants'" in answer.json()["reason"]
    assert get(unchanged, "..%2f..%2fevermodel/runs").status_code == 404


def test_the_audit_reports_a_broken_chain(control: ControlHarness) -> None:
    audit = get(control, f"{NAME}/audit").json()
    assert (audit["whole"], audit["rows"], audit["problems"]) == (True, 4, [])
    with create_engine(control.service.project.profile.ledger_url).begin() as connection:
        connection.execute(update(promotions).where(promotions.c.version == 2).values(chain="0" * 64))
    audit = get(control, f"{NAME}/audit").json()
    assert not audit["whole"] and "promotion 2" in audit["problems"][0]


def test_a_retrain_records_a_decision_and_starts_one_run(control: ControlHarness) -> None:
    answer = act(control, "retrain", reason="a new harbour opened")
    assert answer.status_code == 202, answer.text
    control.launcher.wait(5)
    (started,) = control.started
    decision = control.service.ledger.decisions(NAME)[-1]
    assert started == decision and answer.json()["key"] == decision.retrain_key
    assert decision.reason == "asked for by ops: a new harbour opened"
    champion = control.service.ledger.champion(NAME)
    assert champion is not None and decision.champion == champion.id
    assert decision.windows[0].start == champion.cursor and decision.windows[-1].end == NOW
    assert not any(  # a person's retrain skips the day of broken data, too
        window.start < alert.window.end and alert.window.start < window.end
        for window in decision.windows
        for alert in control.service.ledger.alerts(NAME)
        if alert.diagnosis == "broken_data"
    )


def test_named_windows_are_trained_on(control: ControlHarness) -> None:
    span = "2026-01-20T00:00:00Z..2026-01-21T00:00:00Z"
    assert act(control, "retrain", reason="x", windows=span, mode="from_scratch").json()["windows"] == [span]
    decision = control.service.ledger.decisions(NAME)[-1]
    assert decision.mode == "from_scratch" and isinstance(decision.trigger, Window) and decision.trigger.end == NOW


def test_one_retrain_at_a_time(control: ControlHarness) -> None:
    gate = Event()
    control.run = lambda _decision: gate.wait(10)  # type: ignore[assignment, return-value]
    assert act(control, "retrain", reason="x").status_code == 202
    control.now += timedelta(seconds=1)
    answer = act(control, "retrain", reason="x")
    gate.set()
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert [row.reason for row in control.service.ledger.decisions(NAME)].count("asked for by ops: x") == 1


def test_a_run_of_another_process_excludes_a_retrain(control: ControlHarness) -> None:
    ledger = control.service.ledger
    ledger.claim_lease("elsewhere", owner="pipeline", now=NOW, seconds=60)
    ledger.start_run("elsewhere", use_case=NAME, decision_id=None, owner="pipeline", now=NOW)
    assert act(control, "retrain", reason="x").status_code == 409
    assert [lease["key"] for lease in get(control, f"{NAME}/leases").json()] == ["elsewhere"]


def test_the_ledger_records_why_a_run_failed(control: ControlHarness) -> None:
    def fail(_decision: object) -> None:
        raise OSError("no room left")

    control.run = fail
    key = act(control, "retrain", reason="x").json()["key"]
    control.launcher.wait(5)
    (error,) = get(control, f"{NAME}/errors").json()
    assert (error["where"], error["message"]) == (f"run {key}", "OSError: no room left")


def test_a_decision_whose_run_never_started_is_resumed(control: ControlHarness) -> None:
    act(control, "retrain", reason="x")
    control.launcher.wait(5)
    again = ControlHarness(control.service.project)
    assert again.launcher.resume() == [control.started[0].retrain_key]
    ledger = control.service.ledger
    ledger.claim_lease(control.started[0].retrain_key, owner="pipeline", now=NOW, seconds=60)
    ledger.start_run(control.started[0].retrain_key, use_case=NAME, decision_id=None, owner="pipeline", now=NOW)
    assert ControlHarness(control.service.project).launcher.resume() == []


def test_a_rollback_records_actor_and_reason(control: ControlHarness) -> None:
    before = control.service.ledger.champion(NAME)
    assert before is not None
    answer = act(control, "rollback", reason="complaints", expected_champion=before.id)
    row = control.service.ledger.promotions(NAME)[-1]
    assert answer.json() == {"champion": row.release.id, "previous": before.id, "version": 5}
    assert (row.action, row.actor, row.reason, row.at) == ("rollback", "ops", "complaints", NOW)
    repeated = act(control, "rollback", reason="complaints", leave=before.id)  # the field's earlier name
    assert repeated.json()["version"] == 5
    assert act(control, "rollback", reason="further").json()["code"] == "conflict"  # there is nothing before it


def test_a_rollback_from_another_champion_is_refused(control: ControlHarness) -> None:
    answer = act(control, "rollback", reason="x", expected_champion="0" * 12)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


def test_only_an_override_promotes_against_the_gate(control: ControlHarness) -> None:
    answer = act(control, "promote", run=HELD_RUN, reason="it is good enough")
    assert (answer.status_code, answer.json()["code"]) == (409, "gate_not_passed")
    assert len(control.service.ledger.promotions(NAME)) == 4
    answer = act(control, "promote", run=HELD_RUN, reason="it is good enough", override=True)
    row = control.service.ledger.promotions(NAME)[-1]
    assert answer.json() == {"champion": row.release.id, "verdict": "hold"}
    assert row.reason.startswith("override by ops: it is good enough (the gate says hold: ndcg 0.7310")
    assert not control.service.ledger.verify_chain(NAME)


def test_an_unknown_run_is_not_promoted(control: ControlHarness) -> None:
    answer = act(control, "promote", run="7c1d5e02a9b34f6", reason="x")
    assert answer.status_code == 422 and f"did you mean '{HELD_RUN}'" in answer.json()["reason"]
    assert act(control, "promote", run="../../first", reason="x").status_code == 422


def test_a_damaged_bundle_is_not_rolled_back_to(control: ControlHarness) -> None:
    previous = control.service.ledger.previous(NAME)
    assert previous is not None
    path = storage.join(previous.bundles[0].uri, "weights.safetensors")
    whole = storage.read_bytes(path)
    try:
        storage.write_bytes(path, whole[:-1] + b"x")
        answer = act(control, "rollback", reason="x")
        assert (answer.status_code, answer.json()["code"]) == (409, "not_whole")
    finally:
        storage.write_bytes(path, whole)


def test_without_a_rollout_a_retry_is_refused(unchanged: ControlHarness) -> None:
    assert act(unchanged, "retry-rollout", reason="x").status_code == 409


def test_arms_come_from_serving(control: ControlHarness) -> None:
    arms = {"canary": {"release": "abc", "share": 0.1, "shadow": False}}
    control.service.serving = lambda: {"use_cases": {NAME: {"release": "def", "arms": arms, "error": None}}}
    assert get(control, f"{NAME}/experiments").json()["arms"] == arms
    control.service.serving = ServingClient("http://127.0.0.1:9", timeout=0.2).status
    assert "does not answer" in get(control, f"{NAME}/experiments").json()["error"]


def test_while_the_ledger_is_down_requests_are_answered_with_503(
    control: ControlHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = BrokenLedger(OperationalError("select", {}, Exception("postgresql://ledger:canary@db/x")))
    with monkeypatch.context() as patch:
        patch.setattr(control.service, "ledger", down)
        answer = get(control, f"{NAME}/runs")
        assert (answer.status_code, answer.json()["code"]) == (503, "ledger_down")
        assert "canary" not in answer.text and control.client().get("/readyz").status_code == 503
        assert control.client().get("/healthz").status_code == 200
        assert "evermodel_ledger_up 0.0" in control.client(**bearer("prom")).get("/metrics").text
    assert get(control, f"{NAME}/runs").status_code == 200


def test_metrics_come_from_the_ledger(unchanged: ControlHarness) -> None:
    text = unchanged.client(**bearer("prom")).get("/metrics").text
    for line in (
        "evermodel_ledger_up 1.0",
        f'evermodel_alerts_open{{use_case="{NAME}"}} 0.0',
        f'evermodel_runs{{state="promoted",use_case="{NAME}"}} 3.0',
        f'evermodel_runs{{state="held",use_case="{NAME}"}} 1.0',
        f'evermodel_window_metric{{metric="ndcg",use_case="{NAME}"}} 0.7012',
        f'evermodel_audit_chain_whole{{use_case="{NAME}"}} 1.0',
    ):
        assert line in text
    assert "evermodel_champion_age_seconds" in text
