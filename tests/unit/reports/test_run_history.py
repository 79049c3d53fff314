"""The history of a use case: one row for each decision and run, as table, JSON and page."""

import json
from pathlib import Path

import pytest

from evermodel import bundle
from evermodel.records import EvaluationReport
from evermodel.reports.run_history import read_business, read_history, write_report
from evermodel.run_folder import RunFolder
from evermodel.workflow import Project
from tests.support import ledger_history
from tests.support.ledger_history import NAME


class UnusedModel:
    """Bundles are opened here for their manifests alone."""

    def __init__(self, *parts: object) -> None:
        pass


@pytest.fixture(autouse=True)
def openable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bundle.SCORERS, "nothing:opens_it", f"{__name__}:UnusedModel")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return ledger_history.project_with_history(tmp_path_factory.mktemp("history") / "project")


def test_every_decision_and_every_run_is_one_row(project: Project) -> None:
    ledger, (_, case) = project.ledger(), project.find(NAME)
    rows = read_history(ledger, case)
    assert [row.at for row in rows] == sorted(row.at for row in rows)
    decisions = ledger.decisions(NAME)
    requested = [run for run in ledger.runs(NAME) if run.key not in {one.retrain_key for one in decisions}]
    assert len(rows) == len(decisions) + len(requested)
    assert rows[0].decision.startswith("requested: ")
    (retrain,) = [row for row in rows if row.diagnosis == "concept_shift"]
    assert (retrain.alerts, retrain.verdict) == ("performance", "promote")
    assert " → " in retrain.champion


def test_the_page_and_its_json_hold_the_same_rows(project: Project, report: EvaluationReport, tmp_path: Path) -> None:
    ledger, (_, case) = project.ledger(), project.find(NAME)
    case = case.model_copy(update={"objectives": case.objectives[:1]})  # without the trade-off, which needs real rows
    champion = ledger.champion(NAME)
    assert champion is not None
    RunFolder(champion.home).write_report(report)
    RunFolder(champion.home).write_training_set(
        ledger_history.run_folder(project, ledger_history.HELD_RUN).read_training_set()
    )
    page = Path(write_report(ledger, case, home=str(tmp_path))).read_text()
    content = json.loads((tmp_path / "run_history.json").read_text())
    assert len(content["history"]) == len(read_history(ledger, case))
    assert len(content["business"]) == len(read_business(ledger, case)) == len(ledger_history.DAYS)
    for row in content["history"]:
        assert row["at"] in page and row["champion"] in page
    for title in ("Metric over time, with alerts and promotions", "Drift by feature", "Calibration"):
        assert f"<figcaption>{title}</figcaption>" in page
