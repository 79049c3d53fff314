"""The workflow's steps on a small project: a run is planned once, and a step that is called twice happens once."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from evermodel import bundle, workflow
from evermodel.errors import ConflictError, DataError, EvermodelError, InputError
from evermodel.features import training_set
from evermodel.monitoring.cohorts import answering_champion
from evermodel.records import Decision, Plan, Promotion, Release, Window
from evermodel.serving.batch import score_rows
from evermodel.serving.request_log import RequestLog
from evermodel.workflow import Project
from evermodel.workflow.retraining import count_new_rows
from tests.support.pump_use_case import DAY, FIRST, LIVE, NAME, PUMPS, readings, write_readings, write_use_case

NOW = FIRST.end
LATER = LIVE[-1].end


def make_project(folder: Path, *, days: int = 5, **changes: Any) -> Project:
    (folder / "evermodel.yaml").write_text("")
    write_use_case(folder, **changes)
    write_readings(folder / "data", readings(days))
    project = Project.open(folder)
    workflow.ingest(project, NAME, data_dir=folder / "data", now=NOW)
    return project


def live(project: Project, plan: Plan) -> Release:
    """The steps of a run, to its end."""
    assert workflow.claim(project, plan, owner="test", now=plan.now)
    with project.recording(plan, "test", now=plan.now):
        rows = workflow.build_training_set(project, plan)
        release = workflow.train(project, plan, rows)
        report = workflow.evaluate(project, plan, rows, release)
        assert workflow.promote(project, plan, release, report, actor="pipeline") == "promote"
    return release


def serve(project: Project, day: Window, release: Release) -> None:
    _, case = project.find(NAME)
    rows = training_set.build_rows(case, project.log(case), window=day, now=day.end, labelled=False).drop_columns(
        ["failed"]
    )
    served = score_rows(bundle.open_release(release), rows)
    ids = pa.array([f"answer-{row}" for row in served["row_id"].to_pylist()], pa.string())
    log = RequestLog(project.profile.place(NAME, "requests"))
    log.append(served.append_column("prediction_id", ids))
    log.flush()


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    return make_project(tmp_path)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """With a first champion, and a second one that the moved day has led to."""
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def first(project: Project) -> Release:
    return live(project, workflow.plan(project, NAME, now=NOW))


@pytest.fixture(scope="module")
def second(project: Project, first: Release) -> Release:
    for day in LIVE:
        serve(project, day, first)
        workflow.monitor(project, NAME, window=day, now=day.end)
    decision = workflow.decide(project, NAME, now=LATER)
    assert decision.action == "retrain"
    plan = workflow.plan(
        project, NAME, now=LATER, windows=decision.windows, mode=decision.mode, trigger=decision.trigger,
        key=decision.retrain_key, reason=decision.reason,
    )  # fmt: skip
    return live(project, plan)


# finding and planning -------------------------------------------------------------------------------------------------


def test_a_use_case_is_found_by_name_and_by_path(fresh: Project) -> None:
    uri, case = fresh.find(NAME)
    assert fresh.find(uri) == (uri, case)
    with pytest.raises(InputError, match=r"no use case 'pump' here; did you mean 'pumps'\?"):
        fresh.find("pump")


def test_without_a_champion_the_first_window_is_trained_on_from_scratch(fresh: Project) -> None:
    plan = workflow.plan(fresh, NAME, now=NOW)
    assert (plan.windows, plan.mode, plan.parent, plan.champion) == ((FIRST,), "from_scratch", None, None)
    assert plan.reason == "the first champion"
    assert workflow.plan(fresh, NAME, now=NOW) == plan, "asked again it is the same, with the same key"
    assert workflow.plan(fresh, NAME, now=LATER).key != plan.key
    with pytest.raises(InputError, match="no release to continue from"):
        workflow.plan(fresh, NAME, now=NOW, mode="stateful")


def test_without_a_first_window_one_must_be_named(fresh: Project) -> None:
    training = {name: value for name, value in PUMPS["training"].items() if name != "first"}
    write_use_case(fresh.profile.root, training=training)
    with pytest.raises(InputError, match=r"name the windows to train on, or training\.first"):
        workflow.plan(fresh, NAME, now=NOW)
    assert workflow.plan(fresh, NAME, now=NOW, windows=[FIRST]).windows == (FIRST,)


def test_a_plan_is_of_the_use_case_that_it_was_asked_for(fresh: Project) -> None:
    _, case = fresh.find(NAME)
    assert workflow.plan(fresh, NAME, now=NOW, use_case_digest=case.digest()).use_case_digest == case.digest()
    with pytest.raises(InputError, match="not the one that the run was started with"):
        workflow.plan(fresh, NAME, now=NOW, use_case_digest="0" * 64)


def test_with_a_champion_a_run_goes_on_from_its_cursor(project: Project, second: Release) -> None:
    plan = workflow.plan(project, NAME, now=LATER)
    assert (plan.mode, plan.parent, plan.champion, plan.reason) == ("stateful", second, second, "asked for")
    assert plan.windows == (Window(start=second.cursor, end=LATER),)


def test_starting_over_beside_a_champion_needs_a_reason(project: Project, second: Release) -> None:
    for choice in ({"mode": "from_scratch"}, {"parent": "none"}):
        with pytest.raises(InputError, match=f"starting over beside champion {second.id} needs a reason"):
            workflow.plan(project, NAME, now=LATER, **choice)  # type: ignore[arg-type]
        plan = workflow.plan(project, NAME, now=LATER, reason="a new kind of pump", **choice)  # type: ignore[arg-type]
        assert (plan.mode, plan.champion, plan.reason) == ("from_scratch", second, "a new kind of pump")


def test_a_run_may_go_on_from_an_older_release_and_is_judged_against_the_champion(
    project: Project, first: Release, second: Release
) -> None:
    plan = workflow.plan(project, NAME, now=LATER, parent=first.id)
    assert (plan.parent, plan.champion, plan.mode) == (first, second, "stateful")
    assert plan.windows == (Window(start=first.cursor, end=LATER),)
    rows = workflow.build_training_set(project, plan)
    assert rows.gate_window.start >= second.cursor, "the champion has been trained on what lies before"
    with pytest.raises(InputError, match="no release 'first' in the ledger"):
        workflow.plan(project, NAME, now=LATER, parent="first")


# running --------------------------------------------------------------------------------------------------------------


def test_a_key_is_granted_once_and_its_plan_stays(fresh: Project) -> None:
    plan = workflow.plan(fresh, NAME, now=NOW)
    assert workflow.claim(fresh, plan, owner="one", now=NOW)
    other = plan.model_copy(update={"reason": "me too"})
    assert not workflow.claim(fresh, other, owner="two", now=NOW)
    assert Plan.from_json(Path(fresh.run_folder(plan).plan).read_text()) == plan
    (run,) = fresh.ledger().runs(NAME)
    assert (run.owner, run.attempt, run.decision) == ("one", 1, None)


def test_a_run_that_a_decision_asked_for_names_it(project: Project, second: Release) -> None:
    decisions = [one for one in project.ledger().decisions(NAME) if one.action == "retrain"]
    assert [run.decision for run in project.ledger().runs(NAME)] == [None, decisions[0].id]


def test_a_failed_step_leaves_its_cause_and_ends_the_run(fresh: Project) -> None:
    empty = Window(start=FIRST.start - DAY, end=FIRST.start)
    plan = workflow.plan(fresh, NAME, now=NOW, windows=[empty])
    assert workflow.claim(fresh, plan, owner="one", now=NOW)
    with pytest.raises(DataError), fresh.recording(plan, "build_training_set", now=NOW):
        workflow.build_training_set(fresh, plan)
    (error,) = fresh.ledger().errors(NAME)
    assert (error.where, error.message[:10]) == ("build_training_set", "DataError:")
    assert [run.state for run in fresh.ledger().runs(NAME)] == ["failed"]
    assert not workflow.claim(fresh, plan, owner="two", now=NOW), "a key runs once"


def test_what_a_run_left_is_read_by_its_key(project: Project, second: Release) -> None:
    key = project.ledger().runs(NAME)[-1].key
    plan, rows, release = workflow.read_run(project, NAME, key)
    assert (plan.key, release) == (key, second)
    assert workflow.read_report(release).challenger == second.id
    manifest = bundle.open_bundle(release.bundles[0]).manifest
    assert (manifest.trigger, manifest.windows, manifest.row_digest) == (LIVE[-1], rows.windows, rows.row_digest)
    with pytest.raises(InputError, match=rf"no trained run '{key[:-1]}'; did you mean '{key}'\?"):
        workflow.read_run(project, NAME, key[:-1])


def test_a_release_that_was_not_judged_has_no_report(second: Release, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no evaluation report: run `evermodel evaluate` first"):
        workflow.read_report(second.model_copy(update={"home": str(tmp_path)}))


def test_a_challenger_of_a_champion_that_was_followed_is_not_promoted(
    project: Project, first: Release, second: Release
) -> None:
    """Two runs side by side: the slower one was judged against a champion that isn't there any more."""
    key = project.ledger().runs(NAME)[-1].key
    plan, _, release = workflow.read_run(project, NAME, key)
    slower = release.model_copy(update={"cursor": release.cursor + timedelta(seconds=1)})
    assert slower.id != release.id
    with pytest.raises(ConflictError, match=f"expects champion {first.id}, but the champion is {second.id}"):
        workflow.promote(project, plan, slower, workflow.read_report(release), actor="pipeline")
    assert project.ledger().champion(NAME) == second


# looking and deciding -------------------------------------------------------------------------------------------------


def test_a_window_is_held_against_the_champion_that_answered_it(
    project: Project, first: Release, second: Release
) -> None:
    """Looked at again after the promotion, the moved day says nothing about the champion that learned from it."""
    before = project.ledger()
    reports, alerts, runs = before.monitoring_reports(NAME), before.alerts(NAME), before.runs(NAME)
    again = workflow.monitor(project, NAME, window=LIVE[-1], now=LATER)
    assert (again.champion, again.alerts) == (first.id, reports[-1].alerts)
    assert project.ledger().monitoring_reports(NAME) == reports
    assert project.ledger().alerts(NAME) == alerts
    decision = workflow.decide(project, NAME, now=LATER)
    assert (decision.action, decision.champion) == ("keep", second.id)
    assert project.ledger().runs(NAME) == runs


def test_a_window_is_looked_at_again_once_its_labels_have_come(tmp_path: Path) -> None:
    """Labels that take two days, windows of one: the moved day's performance is known when the next but one is over."""
    project = make_project(tmp_path, days=8, labels={"failed": {"delay": "2d"}})
    first = live(project, workflow.plan(project, NAME, now=NOW + 2 * DAY, windows=[FIRST]))
    moved = LIVE[-1]
    days = [Window(start=moved.start + n * DAY, end=moved.end + n * DAY) for n in range(3)]
    looks = []
    for day in days:
        serve(project, day, first)
        workflow.monitor(project, NAME, window=day, now=day.end)
        kinds = {alert.kind for alert in project.ledger().alerts(NAME) if alert.window == moved}
        report = next(one for one in project.ledger().monitoring_reports(NAME) if one.window == moved)
        looks.append((report.performance is not None, "performance" in kinds))
    assert looks == [(False, False), (False, False), (True, True)]
    before = project.ledger().alerts(NAME)
    workflow.monitor(project, NAME, window=days[-1], now=days[-1].end)
    assert project.ledger().alerts(NAME) == before


def test_rows_are_new_from_the_instant_their_labels_are_known(project: Project, second: Release) -> None:
    """A label's delay of an hour is over at the hour, not after it: so counts what is trained on."""
    _, case = project.find(NAME)
    times = project.log(case).read("readings", columns=["event_time"])["event_time"].to_pylist()
    newest = times[-1] + timedelta(microseconds=case.maturity)
    counts = [count_new_rows(project, case, second, newest - n * timedelta(microseconds=1)) for n in (0, 1)]
    assert counts[0] == counts[1] + 1
    plan = workflow.plan(project, NAME, now=newest)
    rows = workflow.build_training_set(project, replace_key(plan))
    assert rows.rows + rows.gate_rows == counts[0]


def replace_key(plan: Plan) -> Plan:
    return plan.model_copy(update={"key": "elsewhere"})


def test_nothing_is_monitored_before_there_is_a_champion(fresh: Project) -> None:
    with pytest.raises(Exception, match="there is no champion to monitor; train the first"):
        workflow.monitor(fresh, NAME, window=LIVE[0], now=LATER)
    assert workflow.decide(fresh, NAME, now=LATER).reason.startswith("there is no champion yet")


def test_the_newest_window_lies_on_a_grid(fresh: Project) -> None:
    _, case = fresh.find(NAME)
    assert workflow.newest_window(case, now=LATER) == LIVE[-1]
    assert workflow.newest_window(case, now=LATER + timedelta(hours=23)) == LIVE[-1]
    assert workflow.newest_window(case, now=LATER - timedelta(microseconds=1)) == LIVE[0]


def test_status_says_how_old_a_champion_is(project: Project, second: Release) -> None:
    (row,) = workflow.status(project, None, now=LATER + timedelta(days=3))
    assert (row["champion"], row["age_days"], row["promotions"], row["alerts"]) == (second.id, 3.0, 2, 0)


def test_answers_of_several_champions_are_held_against_the_newest(first: Release, second: Release) -> None:
    history = [
        Promotion(
            use_case=NAME, version=n, release=release, previous=None, action="promote", verdict=None, reason="",
            actor="", at=NOW, chain="",
        )
        for n, release in enumerate([first, second], start=1)
    ]  # fmt: skip
    assert answering_champion(history, {second.id, first.id, "unknown"}) == second
    assert answering_champion(history, {first.id, "unknown"}) == first
    assert answering_champion(history, {"unknown"}) == second
    assert answering_champion(history, ()) == second


# what is started beside it ---------------------------------------------------------------------------------------------


def write_program(root: Path, name: str) -> Path:
    """A module of the project that leaves its arguments in a file, in the place of one that does what they say."""
    (root / name).mkdir()
    program = "import json, pathlib, sys\npathlib.Path('arguments.json').write_text(json.dumps(sys.argv[1:]))\n"
    (root / name / "__main__.py").write_text(program)
    return root / "arguments.json"


def test_serving_is_told_the_projects_places(fresh: Project) -> None:
    arguments = write_program(fresh.profile.root, "serving")
    places = {"online_store": "redis://127.0.0.1:1/0", "online_store_password_file": "/etc/redis/password"}
    project = Project(fresh.profile.model_copy(update=places))
    assert workflow.serve(project, [NAME], port=8123, simulated_time=True) == 0
    port, number, args, text = json.loads(arguments.read_text())
    assert (port, number, args) == ("--port", "8123", "--args")
    given = json.loads(text)
    assert {name: given[name] for name in places} == places
    assert given["use_cases"] == {NAME: project.find(NAME)[0]}
    assert (given["state"], given["simulated_time"]) == (project.profile.state_uri, True)


@pytest.mark.parametrize(
    ("window", "alerts", "carried"),
    [(FIRST, ("drift",), True), (LIVE[0], ("drift",), False), (FIRST, (), False)],
    ids=["all of it", "another window", "a person's decision"],
)
def test_a_retrain_by_hand_names_the_alerts_window_that_it_trains_on(
    fresh: Project, window: Window, alerts: tuple[str, ...], carried: bool
) -> None:
    arguments = write_program(fresh.profile.root, "pipelines")
    trigger = Window(start=FIRST.end - DAY, end=FIRST.end)
    asked = Decision(
        use_case=NAME, at=NOW, action="retrain", reason="it drifts", champion=None, windows=(FIRST,), trigger=trigger,
        alerts=alerts,
    )  # fmt: skip
    fresh.ledger().record_decision(asked)
    with pytest.raises(EvermodelError, match="wasn't started"):  # the program is none that would start it
        workflow.retrain(
            fresh, NAME, windows=f"{window.start.isoformat()}..{window.end.isoformat()}", mode="", reason="", now=LATER
        )
    given = dict(word.split("=", 1) for word in json.loads(arguments.read_text())[2:])
    assert given["trigger"] == (trigger.to_json() if carried else "")


def test_what_evidently_keeps_is_in_the_scratch_folder(
    project: Project, second: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evidently writes files of its own: the state may be no place for them."""
    kept: list[Path] = []
    monkeypatch.setattr("evermodel.monitoring.report.write_report", lambda *_, workspace, **__: kept.append(workspace))
    elsewhere = Project(project.profile.model_copy(update={"scratch": str(tmp_path)}))
    workflow.monitor(elsewhere, NAME, window=LIVE[-1], now=LATER, page=str(tmp_path / "page.html"))
    assert kept == [tmp_path / "evidently"]
