"""Alertmanager's webhook: once is once, what is wrong with one alert leaves the others, and the policy has the word."""

from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from evermodel.control import actions
from tests.support.ledger_history import HELD_RUN, NAME, NOW
from tests.unit.control.control_cases import Desk, bearer

STARTS = NOW - timedelta(hours=1)


def fired(
    starts: datetime = STARTS, *, status: str = "firing", fingerprint: str = "f1", **labels: str
) -> dict[str, Any]:
    return {
        "status": status,
        "labels": {"alertname": "OrdersFell", "use_case": NAME, **labels},
        "annotations": {"summary": "orders fell"},
        "startsAt": starts.isoformat(),
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": fingerprint,
    }


def tell(desk: Desk, *alerts: dict[str, Any]) -> httpx.Response:
    body = {
        "version": "4",
        "groupKey": "{}",
        "status": "firing",
        "receiver": "evermodel",
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager",
        "truncatedAlerts": 0,
        "alerts": list(alerts),
    }
    return desk.client(**bearer("am")).post("/api/v1/alertmanager", json=body)


@pytest.fixture
def rows(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The story has a ledger and no events: so many rows are new."""
    monkeypatch.setattr("evermodel.workflow.retraining._new_rows", lambda *_: 6000)
    return desk


def test_a_firing_alert_is_recorded_and_leads_to_one_run(rows: Desk) -> None:
    said = tell(rows, fired(diagnosis="concept_shift")).json()
    rows.runs.wait(5)
    (alert,) = [one for one in rows.service.ledger.alerts(NAME) if one.evidence.get("source") == "alertmanager"]
    assert said["alerts"] == [{"fingerprint": "f1", "outcome": "recorded", "reason": "", "alert": alert.id}]
    assert (alert.kind, alert.diagnosis, alert.window.end) == ("performance", "concept_shift", STARTS)
    assert alert.evidence["alertname"] == "OrdersFell"
    (decision,) = said["decisions"]
    assert (decision["action"], decision["started"]) == ("retrain", True)
    assert [one.retrain_key for one in rows.started] == [decision["retrain_key"]]
    assert rows.service.ledger.decisions(NAME)[-1].alerts == (alert.id,)


def test_told_again_it_is_the_same_alert_and_the_same_run(rows: Desk) -> None:
    first = tell(rows, fired()).json()
    rows.runs.wait(5)
    key = first["decisions"][0]["retrain_key"]
    ledger = rows.service.ledger
    ledger.claim_lease(key, owner="pipeline", now=NOW, seconds=3600)
    ledger.start_run(key, use_case=NAME, decision_id=None, owner="pipeline", now=NOW)
    rows.now += timedelta(minutes=5)
    again = tell(rows, fired()).json()
    assert again["alerts"][0]["outcome"] == "known" and again["alerts"][0]["alert"] == first["alerts"][0]["alert"]
    assert (again["decisions"][0]["action"], again["decisions"][0]["started"]) == ("keep", False)
    assert len(rows.started) == 1


def test_after_a_promotion_an_old_alert_stays_of_its_champion(rows: Desk) -> None:
    """Alertmanager repeats what still fires: it mustn't be held against a model that wasn't there."""
    tell(rows, fired())
    rows.runs.wait(5)
    actions.promote(rows.service, NAME, HELD_RUN, actor="anna", reason="x", override=True)
    rows.now += timedelta(minutes=5)
    again = tell(rows, fired()).json()
    assert again["alerts"][0]["outcome"] == "known"
    assert (again["decisions"][0]["action"], len(rows.started)) == ("keep", 1)


def test_what_is_wrong_with_one_leaves_the_others(rows: Desk) -> None:
    wrong = fired(fingerprint="f2")
    del wrong["labels"]["use_case"]
    answer = tell(
        rows,
        fired(fingerprint="f0", status="resolved"),
        wrong,
        fired(fingerprint="f3", use_case="restaurant"),
        fired(fingerprint="f4", kind="disaster"),
        fired(fingerprint="f5", kind="manual"),
    )
    assert answer.status_code == 200
    outcomes = {one["fingerprint"]: one for one in answer.json()["alerts"]}
    assert {name: one["outcome"] for name, one in outcomes.items()} == {
        "f0": "ignored", "f2": "refused", "f3": "refused", "f4": "refused", "f5": "recorded",
    }  # fmt: skip
    assert "did you mean 'restaurants'" in outcomes["f3"]["reason"] and "manual" in outcomes["f4"]["reason"]


def test_the_policy_may_keep(rows: Desk) -> None:
    said = tell(rows, fired(diagnosis="broken_data")).json()["decisions"][0]
    assert said["action"] == "keep" and "broken data" in said["reason"]
    rows.runs.wait(1)
    assert rows.started == []


@pytest.mark.parametrize(
    "body", [{}, {"version": "3", "alerts": []}, {"version": "4", "alerts": [{"status": "firing"}]}]
)
def test_another_payload_is_refused_as_a_whole(watched: Desk, body: dict[str, Any]) -> None:
    answer = watched.client(**bearer("am")).post("/api/v1/alertmanager", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert answer.json()["field"]
