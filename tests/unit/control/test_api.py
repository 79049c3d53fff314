"""The API: the ledger as it is, and actions that leave who and why in it."""

from datetime import timedelta

import httpx
import pytest

from evermodel import storage
from evermodel.control.service import asks_serving
from evermodel.records import Window
from tests.support.ledger_history import HELD_RUN, NAME, NOW
from tests.unit.control.control_cases import Desk, bearer


def get(desk: Desk, path: str) -> httpx.Response:
    return desk.client(**bearer("eve")).get(f"/api/v1/{path}")


def ask(desk: Desk, verb: str, **body: object) -> httpx.Response:
    return desk.client(**bearer("ops")).post(f"/api/v1/{NAME}/{verb}", json=body)


@pytest.mark.parametrize(
    ("kind", "count"),
    [("alerts", 5), ("decisions", 8), ("leases", 0), ("runs", 4), ("promotions", 4), ("windows", 12), ("errors", 0)],
)
def test_what_the_ledger_has_can_be_read(watched: Desk, kind: str, count: int) -> None:
    rows = get(watched, f"{NAME}/{kind}").json()
    assert len(rows) == count
    if count:
        assert get(watched, f"{NAME}/{kind}?limit=1").json() == rows[-1:]


def test_use_cases_are_told_in_one_row_each(watched: Desk) -> None:
    (row,) = get(watched, "use-cases").json()
    champion = watched.service.ledger.champion(NAME)
    assert champion is not None
    assert (row["use_case"], row["champion"], row["metric"]) == (NAME, champion.id, "ndcg")
    assert (row["performance"], row["open_alerts"], row["last_run"]["state"]) == (0.7012, 0, "held")
    assert row["age_seconds"] == pytest.approx((NOW - watched.service.ledger.promotions(NAME)[-1].at).total_seconds())


def test_an_unknown_use_case_is_told_the_nearest(watched: Desk) -> None:
    answer = get(watched, "restaurant/runs")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_use_case")
    assert "did you mean 'restaurants'" in answer.json()["reason"]
    assert get(watched, "..%2f..%2fevermodel/runs").status_code == 404


def test_the_audit_says_whether_the_chain_is_whole(desk: Desk) -> None:
    from sqlalchemy import update

    from evermodel.ledger.tables import promotions, writing

    said = get(desk, f"{NAME}/audit").json()
    assert (said["whole"], said["rows"], said["problems"]) == (True, 4, [])
    with writing(desk.service.ledger._engine, "tamper") as connection:
        connection.execute(update(promotions).where(promotions.c.version == 2).values(chain="0" * 64))
    said = get(desk, f"{NAME}/audit").json()
    assert not said["whole"] and "promotion 2" in said["problems"][0]


def test_a_retrain_is_a_decision_of_a_person_and_one_run(desk: Desk) -> None:
    answer = ask(desk, "retrain", reason="a new harbour opened")
    assert answer.status_code == 202, answer.text
    desk.runs.wait(5)
    (started,) = desk.started
    decision = desk.service.ledger.decisions(NAME)[-1]
    assert started == decision and answer.json()["key"] == decision.retrain_key
    assert decision.reason == "asked for by ops: a new harbour opened"
    champion = desk.service.ledger.champion(NAME)
    assert champion is not None and decision.champion == champion.id
    assert decision.windows[0].start == champion.cursor and decision.windows[-1].end == NOW
    assert not any(  # the day of broken data isn't trained on by hand either
        window.start < alert.window.end and alert.window.start < window.end
        for window in decision.windows
        for alert in desk.service.ledger.alerts(NAME)
        if alert.diagnosis == "broken_data"
    )


def test_named_windows_are_trained_on(desk: Desk) -> None:
    span = "2026-01-20T00:00:00Z..2026-01-21T00:00:00Z"
    assert ask(desk, "retrain", reason="x", windows=span, mode="from_scratch").json()["windows"] == [span]
    decision = desk.service.ledger.decisions(NAME)[-1]
    assert decision.mode == "from_scratch" and isinstance(decision.trigger, Window) and decision.trigger.end == NOW


def test_one_retrain_at_a_time(desk: Desk) -> None:
    from threading import Event

    gate = Event()
    desk.runs._launch = lambda _service, _decision: gate.wait(10)  # type: ignore[assignment]
    assert ask(desk, "retrain", reason="x").status_code == 202
    desk.now += timedelta(seconds=1)
    answer = ask(desk, "retrain", reason="x")
    gate.set()
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert [one.reason for one in desk.service.ledger.decisions(NAME)].count("asked for by ops: x") == 1


def test_a_run_elsewhere_is_not_joined_by_another(desk: Desk) -> None:
    ledger = desk.service.ledger
    ledger.claim_lease("elsewhere", owner="pipeline", now=NOW, seconds=60)
    ledger.start_run("elsewhere", use_case=NAME, decision_id=None, owner="pipeline", now=NOW)
    assert ask(desk, "retrain", reason="x").status_code == 409
    assert [lease["key"] for lease in get(desk, f"{NAME}/leases").json()] == ["elsewhere"]


def test_what_a_run_dies_of_is_in_the_ledger(desk: Desk) -> None:
    def fails(_service: object, _decision: object) -> None:
        raise OSError("no room left")

    desk.runs._launch = fails
    key = ask(desk, "retrain", reason="x").json()["key"]
    desk.runs.wait(5)
    (error,) = get(desk, f"{NAME}/errors").json()
    assert (error["where"], error["message"]) == (f"run {key}", "OSError: no room left")


def test_a_decision_that_was_never_run_is_started_again(desk: Desk) -> None:
    ask(desk, "retrain", reason="x")
    desk.runs.wait(5)
    again = Desk(desk.service.project)
    assert again.runs.resume() == [desk.started[0].retrain_key]
    ledger = desk.service.ledger
    ledger.claim_lease(desk.started[0].retrain_key, owner="pipeline", now=NOW, seconds=60)
    ledger.start_run(desk.started[0].retrain_key, use_case=NAME, decision_id=None, owner="pipeline", now=NOW)
    assert Desk(desk.service.project).runs.resume() == []


def test_a_rollback_says_who_and_why(desk: Desk) -> None:
    before = desk.service.ledger.champion(NAME)
    assert before is not None
    answer = ask(desk, "rollback", reason="complaints", leave=before.id)
    row = desk.service.ledger.promotions(NAME)[-1]
    assert answer.json() == {"champion": row.release.id, "previous": before.id, "version": 5}
    assert (row.action, row.actor, row.reason, row.at) == ("rollback", "ops", "complaints", NOW)
    assert ask(desk, "rollback", reason="complaints", leave=before.id).json()["version"] == 5  # a double click
    assert ask(desk, "rollback", reason="further").json()["code"] == "conflict"  # there is nothing before it


def test_a_rollback_of_who_is_champion_no_more_is_refused(desk: Desk) -> None:
    answer = ask(desk, "rollback", reason="x", leave="0" * 12)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


def test_the_gate_holds_until_a_person_overrides_it(desk: Desk) -> None:
    answer = ask(desk, "promote", run=HELD_RUN, reason="it is good enough")
    assert (answer.status_code, answer.json()["code"]) == (409, "gate_not_passed")
    assert len(desk.service.ledger.promotions(NAME)) == 4
    answer = ask(desk, "promote", run=HELD_RUN, reason="it is good enough", override=True)
    row = desk.service.ledger.promotions(NAME)[-1]
    assert answer.json() == {"champion": row.release.id, "verdict": "hold"}
    assert row.reason.startswith("override by ops: it is good enough (the gate says hold: ndcg 0.7310")
    assert not desk.service.ledger.verify_chain(NAME)


def test_what_was_never_trained_is_not_promoted(desk: Desk) -> None:
    answer = ask(desk, "promote", run="7c1d5e02a9b34f6", reason="x")
    assert answer.status_code == 422 and f"did you mean '{HELD_RUN}'" in answer.json()["reason"]
    assert ask(desk, "promote", run="../../first", reason="x").status_code == 422


def test_a_bundle_that_is_not_whole_is_not_put_back(desk: Desk) -> None:
    previous = desk.service.ledger.previous(NAME)
    assert previous is not None
    path = storage.join(previous.bundles[0].uri, "weights.safetensors")
    whole = storage.read_bytes(path)
    try:
        storage.write_bytes(path, whole[:-1] + b"x")
        answer = ask(desk, "rollback", reason="x")
        assert (answer.status_code, answer.json()["code"]) == (409, "not_whole")
    finally:
        storage.write_bytes(path, whole)


def test_champions_are_not_projected_from_a_laptop(watched: Desk) -> None:
    assert ask(watched, "project", reason="x").status_code == 409


def test_arms_are_what_serving_says(desk: Desk) -> None:
    arms = {"canary": {"release": "abc", "share": 0.1, "shadow": False}}
    desk.service.serving = lambda: {"use_cases": {NAME: {"release": "def", "arms": arms, "error": None}}}
    assert get(desk, f"{NAME}/experiments").json()["arms"] == arms
    desk.service.serving = asks_serving("http://127.0.0.1:9", seconds=0.2)
    assert "doesn't answer" in get(desk, f"{NAME}/experiments").json()["error"]


def test_without_its_ledger_it_says_so_and_goes_on(desk: Desk) -> None:
    from sqlalchemy.exc import OperationalError

    class Down:
        def __getattr__(self, name: str) -> object:
            raise OperationalError("select", {}, Exception("postgresql://ledger:canary@db/x"))

    whole, desk.service._ledger = desk.service.ledger, Down()  # type: ignore[assignment]
    answer = get(desk, f"{NAME}/runs")
    assert (answer.status_code, answer.json()["code"]) == (503, "ledger_down")
    assert "canary" not in answer.text and desk.client().get("/readyz").status_code == 503
    assert desk.client().get("/healthz").status_code == 200
    assert "evermodel_ledger_up 0.0" in desk.client(**bearer("prom")).get("/metrics").text
    desk.service._ledger = whole
    assert get(desk, f"{NAME}/runs").status_code == 200


def test_metrics_are_the_ledgers_figures(watched: Desk) -> None:
    text = watched.client(**bearer("prom")).get("/metrics").text
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
