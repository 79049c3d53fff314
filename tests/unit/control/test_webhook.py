"""Alertmanager's webhook: a repeated alert counts once, an invalid alert is refused alone, and the policy decides."""

from datetime import datetime, timedelta
from typing import Any

import httpx
import pyarrow as pa
import pytest

from evermodel.control import actions
from evermodel.data.events import EventLog
from tests.support.ledger_history import HELD_RUN, NAME, NOW
from tests.unit.control.control_cases import ControlHarness, bearer

STARTS = NOW - timedelta(hours=1)


def firing(
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


def notify(control: ControlHarness, *alerts: dict[str, Any]) -> httpx.Response:
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
    return control.client(**bearer("am")).post("/api/v1/alertmanager", json=body)


@pytest.fixture
def fresh(control: ControlHarness, monkeypatch: pytest.MonkeyPatch) -> ControlHarness:
    """A service with enough new rows for a retrain; the history has no events of its own."""
    rows = pa.table({"ingest_seq": range(6000)})
    monkeypatch.setattr(EventLog, "read", lambda *_, **__: rows)
    return control


def test_a_firing_alert_is_recorded_and_leads_to_one_run(fresh: ControlHarness) -> None:
    answer = notify(fresh, firing(diagnosis="concept_shift")).json()
    fresh.launcher.wait(5)
    (alert,) = [row for row in fresh.service.ledger.alerts(NAME) if row.evidence.get("source") == "alertmanager"]
    assert answer["alerts"] == [{"fingerprint": "f1", "outcome": "recorded", "reason": "", "alert": alert.id}]
    assert (alert.kind, alert.diagnosis, alert.window.end) == ("performance", "concept_shift", STARTS)
    assert alert.evidence["alertname"] == "OrdersFell"
    (decision,) = answer["decisions"]
    assert (decision["action"], decision["started"]) == ("retrain", True)
    assert [started.retrain_key for started in fresh.started] == [decision["retrain_key"]]
    assert fresh.service.ledger.decisions(NAME)[-1].alerts == (alert.id,)


def test_a_repeated_alert_is_the_same_alert_and_the_same_run(fresh: ControlHarness) -> None:
    first = notify(fresh, firing()).json()
    fresh.launcher.wait(5)
    key = first["decisions"][0]["retrain_key"]
    ledger = fresh.service.ledger
    ledger.claim_lease(key, owner="pipeline", now=NOW, seconds=3600)
    ledger.start_run(key, use_case=NAME, decision_id=None, owner="pipeline", now=NOW)
    fresh.now += timedelta(minutes=5)
    again = notify(fresh, firing()).json()
    assert again["alerts"][0]["outcome"] == "known" and again["alerts"][0]["alert"] == first["alerts"][0]["alert"]
    assert (again["decisions"][0]["action"], again["decisions"][0]["started"]) == ("keep", False)
    assert len(fresh.started) == 1


def test_after_a_promotion_an_old_alert_belongs_to_the_earlier_champion(fresh: ControlHarness) -> None:
    """Alertmanager repeats a firing alert: it must not count against a model promoted later."""
    notify(fresh, firing())
    fresh.launcher.wait(5)
    actions.promote(fresh.service, NAME, HELD_RUN, actor="anna", reason="x", override=True)
    fresh.now += timedelta(minutes=5)
    again = notify(fresh, firing()).json()
    assert again["alerts"][0]["outcome"] == "known"
    assert (again["decisions"][0]["action"], len(fresh.started)) == ("keep", 1)


def test_an_invalid_alert_is_refused_and_the_others_are_recorded(fresh: ControlHarness) -> None:
    wrong = firing(fingerprint="f2")
    del wrong["labels"]["use_case"]
    answer = notify(
        fresh,
        firing(fingerprint="f0", status="resolved"),
        wrong,
        firing(fingerprint="f3", use_case="restaurant"),
        firing(fingerprint="f4", kind="disaster"),
        firing(fingerprint="f5", kind="manual"),
    )
    assert answer.status_code == 200
    outcomes = {row["fingerprint"]: row for row in answer.json()["alerts"]}
    assert {name: row["outcome"] for name, row in outcomes.items()} == {
        "f0": "ignored", "f2": "refused", "f3": "refused", "f4": "refused", "f5": "recorded",
    }  # fmt: skip
    assert "did you mean 'restaurants'" in outcomes["f3"]["reason"] and "manual" in outcomes["f4"]["reason"]


def test_the_policy_may_keep_the_champion(fresh: ControlHarness) -> None:
    decision = notify(fresh, firing(diagnosis="broken_data")).json()["decisions"][0]
    assert decision["action"] == "keep" and "broken data" in decision["reason"]
    fresh.launcher.wait(1)
    assert fresh.started == []


@pytest.mark.parametrize(
    "body", [{}, {"version": "3", "alerts": []}, {"version": "4", "alerts": [{"status": "firing"}]}]
)
def test_an_invalid_payload_is_refused_as_a_whole(unchanged: ControlHarness, body: dict[str, Any]) -> None:
    answer = unchanged.client(**bearer("am")).post("/api/v1/alertmanager", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert answer.json()["field"]
