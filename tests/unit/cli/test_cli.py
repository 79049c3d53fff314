"""The command line as people and CI use it: exit codes, JSON on stdout alone, errors that name the nearest, each verb.

In process, through `main`, in a project of its own with the small use case `pumps`; what starts a Ray, Feast or a
pipeline is marked.
"""

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from evermodel import bundle, cli
from evermodel.features import training_set
from evermodel.records import Window
from evermodel.serving.batch import score_rows
from evermodel.serving.request_log import RequestLog
from evermodel.use_case import UseCase
from evermodel.workflow import Project
from tests.support.pump_use_case import CASE, FIRST, LIVE, NAME, PER_DAY, readings, write_readings, write_use_case
from tests.support.servers import redis_server

FIRST_NOW = f"--now={FIRST.end.isoformat()}"
DAY, MOVED = LIVE


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What a program reads: nothing but JSON on stdout, nothing on stderr."""
        assert self.err == ""
        return json.loads(self.out)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def evermodel(*arguments: str, err: io.StringIO | None = None) -> Said:
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
    return Said(status, out.getvalue(), err.getvalue())


def as_json(*arguments: str) -> Any:
    said = evermodel(*arguments, "--output", "json")
    assert said.status == 0, said.err
    return said.json


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with pumps, and with a stricter one that nothing passes; the current directory while these tests run."""
    folder = tmp_path_factory.mktemp("cli")
    before = Path.cwd()
    os.chdir(folder)
    said = evermodel("init", "project", "--template", "electricity")
    assert said.status == 0 and "project/evermodel.yaml" in said.out.splitlines()
    os.chdir(folder / "project")
    pumps = write_use_case(Path())
    strict = CASE.replace("name: pumps", "name: strict", 1).replace("gate: {", "gate: {minimum_rows: 100000, ", 1)
    pumps.with_name("strict.yaml").write_text(strict.lstrip())
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
def judged(trained: Any) -> Any:
    return as_json("evaluate", NAME, trained["key"])


@pytest.fixture(scope="module")
def promoted(trained: Any, judged: Any) -> Any:
    return as_json("promote", NAME, trained["key"])


def serve(day: Window) -> None:
    """The day's answers, as the request log gets them from serving."""
    project = Project.open()
    _, case = project.find(NAME)
    champion = project.ledger().champion(NAME)
    assert champion is not None
    rows = training_set.rows(case, project.log(case), window=day, now=day.end, labelled=False).drop_columns(["failed"])
    served = score_rows(bundle.open_release(champion), rows)
    ids = pa.array([f"answer-{row}" for row in served["row_id"].to_pylist()], pa.string())
    log = RequestLog(project.profile.place(NAME, "requests"))
    log.append(served.append_column("prediction_id", ids))
    log.flush()


@pytest.fixture(scope="module")
def monitored(promoted: Any) -> list[Any]:
    found = []
    for day in LIVE:
        serve(day)
        window = f"{day.start.isoformat()}..{day.end.isoformat()}"
        found.append(as_json("monitor", NAME, "--window", window, "--now", day.end.isoformat()))
    return found


@pytest.fixture(scope="module")
def decided(monitored: list[Any]) -> Any:
    return as_json("decide", NAME, "--now", MOVED.end.isoformat())


@pytest.fixture(scope="module")
def followed(decided: Any, promoted: Any) -> Any:
    """The second champion: trained on what is new to the first, judged and promoted."""
    trained = as_json("train", NAME, "--now", MOVED.end.isoformat())
    assert as_json("evaluate", NAME, trained["key"])["verdict"] == "promote"
    return as_json("promote", NAME, trained["key"])


# the verbs, in the order of a model's life ----------------------------------------------------------------------------


def test_ingest_counts_what_came_in_and_finds_it_again(ingested: Any) -> None:
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


def test_train_leaves_a_run_that_evaluate_takes(trained: Any) -> None:
    assert trained["rows"] == 1066  # of 1,200: without the 16 whose label isn't known yet, and the gate's tenth
    assert Path(trained["home"], "release.json").is_file()


def test_evaluate_says_the_verdict_and_where_the_report_is(judged: Any) -> None:
    assert (judged["verdict"], judged["metric"], judged["champion"]) == ("promote", "accuracy", None)
    assert judged["challenger"] > 0.8
    assert "<html" in Path(judged["report"]).read_text()


def test_promote_makes_the_champion_and_again_is_the_same(promoted: Any, trained: Any) -> None:
    assert promoted == {"release": trained["release"], "verdict": "promote"}
    assert as_json("promote", NAME, trained["key"]) == promoted
    (row,) = as_json("status", NAME, "--now", FIRST.end.isoformat())
    assert (row["champion"], row["promotions"]) == (trained["release"], 1)
    assert row["last_run"] == f"{trained['key']} promoted"


def test_monitor_looks_at_a_window(monitored: list[Any]) -> None:
    quiet, moved = monitored
    assert (quiet["rows"], quiet["alerts"]) == (PER_DAY, [])
    assert {alert["diagnosis"] for alert in moved["alerts"]} == {"covariate_shift"}
    assert moved["performance"] < quiet["performance"] - 0.2


def test_decide_twice_is_one_decision_and_why_tells_it(decided: Any) -> None:
    assert (decided["action"], decided["mode"]) == ("retrain", "stateful")
    assert decided["trigger"] == MOVED.model_dump(mode="json")
    assert as_json("decide", NAME, "--now", MOVED.end.isoformat()) == decided
    (row,) = as_json("why", NAME)
    assert (row["action"], row["reason"]) == ("retrain", decided["reason"])
    assert set(decided["reason"].split()) <= set(evermodel("why", NAME).out.split())


def test_rollback_puts_the_previous_champion_back(followed: Any, promoted: Any) -> None:
    back = as_json("rollback", NAME, "--reason", "complaints", "--now", MOVED.end.isoformat())
    assert back == {"champion": promoted["release"], "previous": followed["release"], "version": 3}
    said = evermodel("rollback", NAME, "--reason", "more complaints")
    assert (said.status, said.out) == (1, "")
    assert "no champion to go back to" in said.err


def test_replay_compares_policies(home: Path) -> None:
    told = as_json("replay", NAME, "--data", "data", "--policy", "static", "--out", "replayed")
    assert [life["policy"] for life in told["policies"]] == ["static"]
    assert told == json.loads(Path("replayed/replay.json").read_text())
    assert Path("replayed/replay.png").stat().st_size > 10_000


# exit codes -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def held(home: Path) -> str:
    """The key of a run of the strict use case, which its gate holds."""
    as_json("ingest", "strict", "--data", "data", FIRST_NOW)
    key: str = as_json("train", "strict", FIRST_NOW)["key"]
    return key


@pytest.fixture(scope="module")
def overridden(held: str) -> list[Said]:
    """Judged, refused, and promoted all the same by a person."""
    return [
        evermodel("evaluate", "strict", held, "-o", "json"),
        evermodel("promote", "strict", held, "-o", "json"),
        evermodel("status", "strict", "-o", "json"),
        evermodel("promote", "strict", held, "--override", "the fair is tomorrow", "-o", "json"),
    ]


def test_what_the_gate_does_not_pass_is_exit_code_3(overridden: list[Said]) -> None:
    judged, refused, status, promoted = overridden
    assert (judged.status, judged.json["verdict"]) == (3, "hold")
    assert (refused.status, refused.json["verdict"]) == (3, "hold")
    assert status.json[0]["champion"] is None
    assert (promoted.status, promoted.json["verdict"]) == (0, "promote")
    (row,) = Project.open().ledger().promotions("strict")
    assert "override by cli: the fair is tomorrow" in row.reason


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("status", "pump"), "did you mean 'pumps'?"),
        (("why", "nowhere/pumps.yaml"), "nowhere/pumps.yaml: no such use-case file"),
        (("train", NAME, "--mode", "statefull"), "mode 'statefull': write stateful or from_scratch"),
        (("train", NAME, "--now", "yesterday"), "'yesterday' is no ISO 8601 time"),
        (("train", NAME, "--window", "2026-01-01"), "write START..END"),
        (("train", NAME, "--parent", "abc"), "no release 'abc' in the ledger"),
        (("evaluate", NAME, "0000"), "no trained run '0000'"),
        (
            ("replay", NAME, "--policy", "stateles", "--out", "x"),
            "policy 'stateles': write one of stateful, from_scratch, static",
        ),
        (("init", "elsewhere", "--template", "electricty"), "did you mean 'electricity'?"),
        (("init", ".", "--template", "electricity"), "is not empty; name a new folder"),
        (("predict", "strict", "--window", ""), "batch prediction needs a champion and a window"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_says_what_would_be_right(
    home: Path, arguments: tuple[str, ...], said: str
) -> None:
    found = evermodel(*arguments)
    assert (found.status, found.out) == (2, "")
    assert said in found.err
    assert found.err.startswith("error: ") and "Traceback" not in found.err


@pytest.mark.parametrize(
    "arguments", [("statu",), ("status", "--output", "xml"), ("rollback", NAME), ("replay", NAME), ("features", "aply")]
)
def test_what_the_parser_refuses_is_exit_code_2(home: Path, arguments: tuple[str, ...]) -> None:
    found = evermodel(*arguments)
    assert (found.status, found.out) == (2, "")
    assert "Usage:" in found.err


def test_a_failure_is_exit_code_1(home: Path) -> None:
    found = evermodel("ingest", "electricity", "--data", "nowhere")
    assert (found.status, found.out) == (1, "")
    assert "no file elec2/electricity.csv.gz in nowhere" in found.err
    found = evermodel("monitor", "electricity")
    assert (found.status, found.err) == (1, "error: electricity: there is no champion to monitor; train the first\n")


def test_outside_a_project_it_says_how_to_make_one(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = evermodel("status")
    assert found.status == 2
    assert "`evermodel init`" in found.err


# what is said, and where ----------------------------------------------------------------------------------------------


def test_progress_is_for_a_person_who_watches(ingested: Any) -> None:
    arguments = ("replay", NAME, "--data", "data", "--policy", "static", "--out", "watched")
    quiet = evermodel(*arguments)
    assert (quiet.status, quiet.err) == (0, "")
    watched = evermodel(*arguments, err=Terminal())
    assert "readings: 0 applied, 2000 duplicate, 0 rejected" in watched.err
    assert watched.out == quiet.out, "what goes to stdout doesn't depend on who watches"


def test_a_table_is_for_people(home: Path) -> None:
    said = evermodel("status", "electricity")
    assert said.out.split("\n")[0].split() == [
        "use",
        "case",
        "champion",
        "age",
        "days",
        "promotions",
        "alerts",
        "decisions",
        "last",
        "run",
    ]
    assert evermodel("why", "electricity").out == "nothing\n"
    assert as_json("why", "electricity") == []


def test_config_shows_the_profile_and_a_use_case_with_its_defaults(home: Path) -> None:
    assert yaml.safe_load(evermodel("config", "show").out)["launcher"] == "local"
    shown = yaml.safe_load(evermodel("config", "show", NAME).out)
    assert shown["gate"]["confidence"] == 0.95
    assert UseCase.model_validate(shown) == Project.open().find(NAME)[1]


def test_config_schema_is_json_schema(home: Path) -> None:
    schema = json.loads(evermodel("config", "schema").out)
    assert schema["properties"]["features"]["minItems"] == 1
    assert schema["additionalProperties"] is False


def test_help_names_every_verb(home: Path) -> None:
    verbs = "init ingest features train evaluate promote rollback serve predict monitor decide retrain replay status why config demo"
    said = evermodel("--help")
    assert said.status == 0
    assert set(verbs.split()) <= set(said.out.split())


# what needs an engine -------------------------------------------------------------------------------------------------


@pytest.mark.ray
@pytest.mark.slow
def test_predict_scores_a_window(followed: Any) -> None:
    window = f"{MOVED.start.isoformat()}..{MOVED.end.isoformat()}"
    said = as_json("predict", NAME, "--window", window, "--now", MOVED.end.isoformat())
    manifest = json.loads(Path(said["predictions"], "manifest.json").read_text())
    assert (manifest["rows_in"], manifest["rows_out"]) == (PER_DAY, PER_DAY)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Feast's own
def test_features_are_registered_with_feast(home: Path) -> None:
    names = [row["registered"] for row in as_json("features", "apply")]
    assert any("pump" in name for name in names)


@pytest.mark.kfp
@pytest.mark.slow
def test_retrain_runs_the_pipeline_and_says_how_it_ended(overridden: list[Said]) -> None:
    """The strict use case never passes its gate: the run ends as held, and that is exit code 3."""
    said = evermodel("retrain", "strict", "--now", DAY.end.isoformat(), "-o", "json")
    assert said.status == 3, said.err
    assert said.json["state"] == "held"
    assert Path(said.json["log"]).is_file()
    said = evermodel(
        "retrain", "strict", "--now", DAY.end.isoformat(), "--window", "1996-01-01T00:00:00Z..1996-01-02T00:00:00Z"
    )
    assert (said.status, said.out) == (1, "")
    assert "failed in build_training_set: DataError: strict: no matured, labelled row in 1996-01-01" in said.err
    assert "Traceback" not in said.err
