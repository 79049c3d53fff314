"""The command line as people and CI use it: every verb, exit codes, JSON on stdout, errors that name the nearest.

The tests call `main` in this process, in a project of their own with the small use case `pumps`. Tests that start a
Ray, Feast or a pipeline are marked.
"""

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from evermodel import bundle, cli
from evermodel.cli.app import VERBS
from evermodel.features import training_set
from evermodel.records import Window
from evermodel.serving.batch import score_rows
from evermodel.serving.request_log import RequestLog
from evermodel.use_case import UseCase
from evermodel.workflow import Project
from tests.support.pump_use_case import FIRST, LIVE, NAME, PER_DAY, PUMPS, readings, write_readings, write_use_case
from tests.support.servers import redis_server

FIRST_NOW = f"--now={FIRST.end.isoformat()}"
DAY, MOVED = LIVE


@dataclass(frozen=True)
class CommandResult:
    """The exit status and the output of a command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The value on stdout. stdout holds only JSON, and stderr nothing."""
        assert self.err == ""
        return json.loads(self.out)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_cli(*arguments: str, err: io.StringIO | None = None) -> CommandResult:
    out, err = io.StringIO(), err or io.StringIO()
    before, sys.argv = sys.argv, ["evermodel", *arguments]
    status = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            cli.main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    finally:
        sys.argv = before
    return CommandResult(status, out.getvalue(), err.getvalue())


def as_json(*arguments: str) -> Any:
    result = run_cli(*arguments, "--output", "json")
    assert result.status == 0, result.err
    return result.json


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with pumps and with a strict copy whose gate nothing passes. It is the current directory of the tests."""
    folder = tmp_path_factory.mktemp("cli")
    before = Path.cwd()
    os.chdir(folder)
    result = run_cli("init", "project", "--template", "electricity")
    assert result.status == 0 and "project/evermodel.yaml" in result.out.splitlines()
    os.chdir(folder / "project")
    write_use_case(Path())
    write_use_case(Path(), name="strict", gate=PUMPS["gate"] | {"minimum_rows": 100_000})
    write_readings(Path("data"), readings())
    yield folder / "project"
    os.chdir(before)


@pytest.fixture(scope="module")
def ingested(home: Path) -> Any:
    return as_json("ingest", NAME, "--data", "data", FIRST_NOW)


@pytest.fixture(scope="module")
def trained(ingested: Any) -> Any:
    return as_json("train", NAME, FIRST_NOW)


@pytest.fixture(scope="module")
def evaluated(trained: Any) -> Any:
    return as_json("evaluate", NAME, trained["key"])


@pytest.fixture(scope="module")
def promoted(trained: Any, evaluated: Any) -> Any:
    return as_json("promote", NAME, trained["key"])


def log_answers(day: Window) -> None:
    """Write the day's answers to the request log, as serving does."""
    project = Project.open()
    _, case = project.find(NAME)
    champion = project.ledger().champion(NAME)
    assert champion is not None
    rows = training_set.build_rows(case, project.log(case), window=day, now=day.end, labelled=False).drop_columns(
        ["failed"]
    )
    served = score_rows(bundle.open_release(champion), rows)
    ids = pa.array([f"answer-{row}" for row in served["row_id"].to_pylist()], pa.string())
    log = RequestLog(project.profile.place(NAME, "requests"))
    log.append(served.append_column("prediction_id", ids))
    log.flush()


@pytest.fixture(scope="module")
def monitored(promoted: Any) -> list[Any]:
    reports = []
    for day in LIVE:
        log_answers(day)
        window = f"{day.start.isoformat()}..{day.end.isoformat()}"
        reports.append(as_json("monitor", NAME, "--window", window, "--now", day.end.isoformat()))
    return reports


@pytest.fixture(scope="module")
def decided(monitored: list[Any]) -> Any:
    return as_json("decide", NAME, "--now", MOVED.end.isoformat())


@pytest.fixture(scope="module")
def second_champion(decided: Any, promoted: Any) -> Any:
    """A release that is trained on rows that are new to the first champion, evaluated and promoted."""
    trained = as_json("train", NAME, "--now", MOVED.end.isoformat())
    assert as_json("evaluate", NAME, trained["key"])["verdict"] == "promote"
    return as_json("promote", NAME, trained["key"])


# the verbs, in the order of the loop ----------------------------------------------------------------------------------


def test_ingest_counts_the_rows_and_their_repetition(ingested: Any) -> None:
    (report,) = ingested
    assert (report["rows_in"], report["applied"], report["duplicate"], report["rejected"]) == (2000, 2000, 0, 0)
    (again,) = as_json("ingest", NAME, "--data", "data", FIRST_NOW)
    assert (again["applied"], again["duplicate"], again["data_version"]) == (0, 2000, report["data_version"])


def test_features_are_shown_as_they_are_defined(home: Path) -> None:
    shown = as_json("features", "show", NAME)
    assert [row["feature"] for row in shown] == ["load", "heat", "recent_6h"]


def test_features_are_materialised_and_read_back(ingested: Any) -> None:
    assert as_json("features", "materialize", NAME, FIRST_NOW) == {"use_case": NAME, "entities": 4}
    (row,) = as_json("features", "show", NAME, "--entity", "pump:p1")
    assert isinstance(row["recent_6h"], float)


@pytest.mark.server
def test_features_are_read_back_from_a_store_with_a_password(ingested: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with redis_server() as server:
        monkeypatch.setenv("EVERMODEL_ONLINE_STORE", f"redis://127.0.0.1:{server.port}/0")
        monkeypatch.setenv("EVERMODEL_ONLINE_STORE_PASSWORD_FILE", str(server.password_file))
        assert as_json("features", "materialize", NAME, FIRST_NOW)["entities"] == 4
        (row,) = as_json("features", "show", NAME, "--entity", "pump:p1")
    assert isinstance(row["recent_6h"], float)


def test_train_writes_a_run_that_evaluate_takes(trained: Any) -> None:
    assert trained["rows"] == 1066  # of 1,200: without the 16 whose label isn't known yet, and without the gate's rows
    assert Path(trained["home"], "release.json").is_file()


def test_evaluate_prints_the_verdict_and_the_path_of_the_report(evaluated: Any) -> None:
    assert (evaluated["verdict"], evaluated["metric"], evaluated["champion"]) == ("promote", "accuracy", None)
    assert evaluated["challenger"] > 0.8
    assert "<html" in Path(evaluated["report"]).read_text()


def test_promote_twice_makes_one_champion(promoted: Any, trained: Any) -> None:
    assert promoted == {"release": trained["release"], "verdict": "promote"}
    assert as_json("promote", NAME, trained["key"]) == promoted
    (row,) = as_json("status", NAME, "--now", FIRST.end.isoformat())
    assert (row["champion"], row["promotions"]) == (trained["release"], 1)
    assert row["last_run"] == f"{trained['key']} promoted"


def test_monitor_reports_a_window(monitored: list[Any]) -> None:
    quiet, moved = monitored
    assert (quiet["rows"], quiet["alerts"]) == (PER_DAY, [])
    assert {alert["diagnosis"] for alert in moved["alerts"]} == {"covariate_shift"}
    assert moved["performance"] < quiet["performance"] - 0.2


def test_decide_twice_is_one_decision_that_decisions_shows(decided: Any) -> None:
    assert (decided["action"], decided["mode"]) == ("retrain", "stateful")
    assert decided["trigger"] == MOVED.model_dump(mode="json")
    assert as_json("decide", NAME, "--now", MOVED.end.isoformat()) == decided
    (row,) = as_json("decisions", NAME)
    assert (row["action"], row["reason"]) == ("retrain", decided["reason"])
    assert set(decided["reason"].split()) <= set(run_cli("decisions", NAME).out.split())
    assert str(MOVED) in run_cli("decide", NAME, "--now", MOVED.end.isoformat()).out


def test_the_old_name_of_decisions_still_works(decided: Any) -> None:
    assert as_json("why", NAME) == as_json("decisions", NAME)


def test_rollback_restores_the_previous_champion(second_champion: Any, promoted: Any) -> None:
    back = as_json("rollback", NAME, "--reason", "complaints", "--now", MOVED.end.isoformat())
    assert back == {"champion": promoted["release"], "previous": second_champion["release"], "version": 3}
    result = run_cli("rollback", NAME, "--reason", "more complaints")
    assert (result.status, result.out) == (1, "")
    assert "no champion to go back to" in result.err


@pytest.mark.parametrize("verb", ["backtest", "replay"])
def test_backtest_compares_policies(home: Path, verb: str) -> None:
    result = as_json(verb, NAME, "--data", "data", "--policy", "static", "--out", "compared")
    assert [policy["policy"] for policy in result["policies"]] == ["static"]
    assert result == json.loads(Path("compared/backtest.json").read_text())
    assert Path("compared/backtest.png").stat().st_size > 10_000


# exit codes -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def held(home: Path) -> str:
    """The key of a run of the strict use case; its gate says hold."""
    as_json("ingest", "strict", "--data", "data", FIRST_NOW)
    key: str = as_json("train", "strict", FIRST_NOW)["key"]
    return key


@pytest.fixture(scope="module")
def overridden(held: str) -> list[CommandResult]:
    """Evaluated, refused, and promoted by a person against the gate."""
    return [
        run_cli("evaluate", "strict", held, "-o", "json"),
        run_cli("promote", "strict", held, "-o", "json"),
        run_cli("status", "strict", "-o", "json"),
        run_cli("promote", "strict", held, "--override", "the fair is tomorrow", "-o", "json"),
    ]


def test_a_gate_that_is_not_passed_is_exit_code_3(overridden: list[CommandResult]) -> None:
    evaluated, refused, status, promoted = overridden
    assert (evaluated.status, evaluated.json["verdict"]) == (3, "hold")
    assert (refused.status, refused.json["verdict"]) == (3, "hold")
    assert status.json[0]["champion"] is None
    assert (promoted.status, promoted.json["verdict"]) == (0, "promote")
    (row,) = Project.open().ledger().promotions("strict")
    assert "override by cli: the fair is tomorrow" in row.reason


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("status", "pump"), "did you mean 'pumps'?"),
        (("decisions", "nowhere/pumps.yaml"), "nowhere/pumps.yaml: no such use-case file"),
        (("train", NAME, "--mode", "statefull"), "mode 'statefull': write stateful or from_scratch"),
        (("train", NAME, "--now", "yesterday"), "'yesterday' is no ISO 8601 time"),
        (("train", NAME, "--window", "2026-01-01"), "write START..END"),
        (("train", NAME, "--parent", "abc"), "no release 'abc' in the ledger"),
        (("evaluate", NAME, "0000"), "no trained run '0000'"),
        (
            ("backtest", NAME, "--policy", "stateles", "--out", "x"),
            "policy 'stateles': write one of stateful, from_scratch, static",
        ),
        (("init", "elsewhere", "--template", "electricty"), "did you mean 'electricity'?"),
        (("init", ".", "--template", "electricity"), "is not empty; name a new folder"),
        (("predict", "strict", "--window", ""), "batch prediction needs a champion and a window"),
    ],
)
def test_wrong_usage_is_exit_code_2_with_a_message_that_helps(
    home: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = run_cli(*arguments)
    assert (result.status, result.out) == (2, "")
    assert message in result.err
    assert result.err.startswith("error: ") and "Traceback" not in result.err


@pytest.mark.parametrize(
    "arguments",
    [("statu",), ("status", "--output", "xml"), ("rollback", NAME), ("backtest", NAME), ("features", "aply")],
)
def test_arguments_that_the_parser_refuses_are_exit_code_2(home: Path, arguments: tuple[str, ...]) -> None:
    result = run_cli(*arguments)
    assert (result.status, result.out) == (2, "")
    assert "Usage:" in result.err


def test_a_failure_is_exit_code_1(home: Path) -> None:
    result = run_cli("ingest", "electricity", "--data", "nowhere")
    assert (result.status, result.out) == (1, "")
    assert "no file elec2/electricity.csv.gz in nowhere" in result.err
    result = run_cli("monitor", "electricity")
    assert (result.status, result.err) == (1, "error: electricity: there is no champion to monitor; train the first\n")


def test_outside_a_project_the_error_names_init(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_cli("status")
    assert result.status == 2
    assert "`evermodel init`" in result.err


# the output ----------------------------------------------------------------------------------------------------------


def test_progress_goes_to_a_terminal_only(ingested: Any) -> None:
    arguments = ("backtest", NAME, "--data", "data", "--policy", "static", "--out", "watched")
    in_a_pipe = run_cli(*arguments)
    assert (in_a_pipe.status, in_a_pipe.err) == (0, "")
    on_a_terminal = run_cli(*arguments, err=Terminal())
    assert "readings: 0 applied, 2000 duplicate, 0 rejected" in on_a_terminal.err
    assert on_a_terminal.out == in_a_pipe.out


def test_a_table_has_a_head_and_says_no_rows_if_it_is_empty(home: Path) -> None:
    head = "use case champion age promotions alerts decisions last run"
    assert run_cli("status", "electricity").out.split("\n")[0].split() == head.split()
    assert run_cli("decisions", "electricity").out == "no rows\n"
    assert as_json("decisions", "electricity") == []


def test_a_table_shows_a_duration_in_days(promoted: Any) -> None:
    newest = Project.open().ledger().promotions(NAME)[-1]
    at = (newest.at + timedelta(days=3, hours=12)).isoformat()
    assert " 3.5 days " in run_cli("status", NAME, "--now", at).out
    assert as_json("status", NAME, "--now", at)[0]["age_days"] == 3.5


def test_config_shows_the_profile_and_a_use_case_with_its_defaults(home: Path) -> None:
    assert yaml.safe_load(run_cli("config", "show").out)["launcher"] == "local"
    shown = yaml.safe_load(run_cli("config", "show", NAME).out)
    assert shown["gate"]["confidence"] == 0.95
    assert UseCase.model_validate(shown) == Project.open().find(NAME)[1]


def test_config_schema_is_json_schema(home: Path) -> None:
    schema = json.loads(run_cli("config", "schema").out)
    assert schema["properties"]["features"]["minItems"] == 1
    assert schema["additionalProperties"] is False


def test_help_names_every_verb_but_not_the_old_names(home: Path) -> None:
    result = run_cli("--help")
    assert result.status == 0
    shown = {line.split()[0] for line in result.out.splitlines() if line.startswith("  ")}
    assert {*VERBS, "features", "config", "ledger"} <= shown
    assert not {"replay", "why"} & shown


# verbs that start an engine -------------------------------------------------------------------------------------------


@pytest.mark.ray
@pytest.mark.slow
def test_predict_scores_a_window(second_champion: Any) -> None:
    window = f"{MOVED.start.isoformat()}..{MOVED.end.isoformat()}"
    result = as_json("predict", NAME, "--window", window, "--now", MOVED.end.isoformat())
    manifest = json.loads(Path(result["predictions"], "manifest.json").read_text())
    assert (manifest["rows_in"], manifest["rows_out"]) == (PER_DAY, PER_DAY)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Feast's own
def test_features_are_registered_with_feast(home: Path) -> None:
    names = [row["registered"] for row in as_json("features", "apply")]
    assert any("pump" in name for name in names)


@pytest.mark.kfp
@pytest.mark.slow
def test_retrain_runs_the_pipeline_and_prints_its_result(overridden: list[CommandResult]) -> None:
    """The strict use case never passes its gate: the run ends as held, and that is exit code 3."""
    result = run_cli("retrain", "strict", "--now", DAY.end.isoformat(), "-o", "json")
    assert result.status == 3, result.err
    assert result.json["state"] == "held"
    assert Path(result.json["log"]).is_file()
    result = run_cli(
        "retrain", "strict", "--now", DAY.end.isoformat(), "--window", "1996-01-01T00:00:00Z..1996-01-02T00:00:00Z"
    )
    assert (result.status, result.out) == (1, "")
    assert "failed in build_training_set: DataError: strict: no matured, labelled row in 1996-01-01" in result.err
    assert "Traceback" not in result.err
