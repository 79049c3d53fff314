"""The journey of a model, one function a stage, with a project's places filled in.

A component and a verb of the command line both call these: they hold no logic of their own, and neither do these beyond
where things lie. What a stage does is in its own package.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from evermodel import bundle, storage
from evermodel import use_case as use_cases
from evermodel.artifacts import (
    RUN_STATES,
    Decision,
    EvaluationReport,
    IngestReport,
    Mode,
    MonitoringReport,
    Plan,
    Promotion,
    Release,
    TrainingSet,
    Window,
    canonical_json,
    from_micros,
    micros,
    sha256,
)
from evermodel.data.events import EventLog
from evermodel.errors import EvermodelError, UseCaseError, nearest
from evermodel.features import training_set as training_sets
from evermodel.ledger import Ledger
from evermodel.profile import Profile, load_profile
from evermodel.provenance import code_version
from evermodel.retraining import lease
from evermodel.use_case import UseCase


@dataclass(frozen=True)
class Project:
    """A project directory: its profile, and where each use case keeps what."""

    profile: Profile

    @classmethod
    def open(cls, start: Path | None = None) -> Project:
        return cls(load_profile(start))

    def find(self, reference: str) -> tuple[str, UseCase]:
        """A use case by name (`fraud`), path or URI: where it lies, and what it says."""
        if "/" in reference or reference.endswith((".yaml", ".yml")):
            uri = reference
        else:
            uri = str(self.profile.root / "use_cases" / f"{reference}.yaml")
            if not storage.exists(uri):
                names = [
                    Path(path).stem for path in storage.list_files(self.profile.root / "use_cases", suffix=".yaml")
                ]
                raise UseCaseError(f"no use case {reference!r} here; {nearest(reference, names)}")
        return uri, use_cases.load(uri)

    def log(self, case: UseCase) -> EventLog:
        return EventLog(self.profile.place(case.name, "events"))

    def ledger(self) -> Ledger:
        return Ledger(self.profile.ledger_url)

    def turn(self, plan: Plan, *parts: str) -> str:
        """The folder of one run: its training set, its bundles, its report."""
        return self.profile.place(plan.use_case, "turns", plan.key, *parts)

    @contextmanager
    def recording(self, plan: Plan, where: str, *, now: datetime) -> Iterator[None]:
        """A step's failure goes into the ledger with its cause, and ends the run: an orchestrator doesn't carry it."""
        try:
            yield
        except Exception as error:
            ledger = self.ledger()
            ledger.record_error(plan.use_case, where, f"{type(error).__name__}: {error}", now=now)
            ledger.finish_run(plan.key, state="failed", result={"where": where, "error": str(error)}, now=now)
            raise


def ingest(project: Project, reference: str, *, data_dir: str | Path, now: datetime) -> list[IngestReport]:
    """Read every source of a use case into its event log; what is there already is counted as duplicate."""
    from evermodel.data.ingest import ingest as ingest_source

    _, case = project.find(reference)
    log = project.log(case)
    return [ingest_source(case, source.name, log, data_dir=str(data_dir), now=now) for source in case.sources]


def plan(
    project: Project,
    reference: str,
    *,
    now: datetime,
    windows: Sequence[Window] = (),
    mode: Mode | None = None,
    trigger: Window | None = None,
    key: str = "",
    reason: str = "",
    parent: str = "champion",
    use_case_digest: str = "",
) -> Plan:
    """Settle what a run is to do. Empty `windows`: all that is new to the champion, or `training.first` without one.

    `parent`, which the run goes on from, is `champion`, `none`, or the id of a release that was promoted once; it is
    the champion that the result is judged against, whatever it came from. Starting over although a champion is there
    is a decision: it needs mode `from_scratch` and a reason.
    """
    uri, case = project.find(reference)
    if use_case_digest not in ("", case.digest()):
        raise UseCaseError(
            f"{uri}: the use case is not the one that the run was started with (digest {use_case_digest[:12]})"
        )
    ledger = project.ledger()
    champion, start = ledger.champion(case.name), _parent(ledger, case, parent)
    chosen: Mode = mode or ("stateful" if start else "from_scratch")
    if start is None and chosen == "stateful":
        raise UseCaseError(f"{case.name}: there is no release to go on from; train with mode from_scratch first")
    if champion is not None and chosen == "from_scratch" and not reason.strip():
        raise UseCaseError(f"{case.name}: starting over although champion {champion.id} is there needs a reason")
    spans = tuple(windows) or _default_windows(case, start or champion, now)
    ids = [release.id if release else None for release in (champion, start)]
    identity = (case.name, ids, [window.span for window in spans], micros(now), chosen)
    return Plan(
        use_case=case.name,
        use_case_uri=uri,
        use_case_digest=case.digest(),
        data_version=project.log(case).data_version(),
        code_version=code_version(),
        windows=spans,
        mode=chosen,
        parent=start,
        champion=champion,
        trigger=trigger,
        now=now,
        key=key or sha256(canonical_json(identity).encode())[:16],
        reason=reason or ("asked for" if champion else "the first champion"),
    )


def _parent(ledger: Ledger, case: UseCase, parent: str) -> Release | None:
    if parent in ("champion", "none"):
        return ledger.champion(case.name) if parent == "champion" else None
    known = {row.release.id: row.release for row in ledger.promotions(case.name)}
    if parent not in known:
        raise UseCaseError(f"{case.name}: no release {parent!r} in the ledger; {nearest(parent, known)}")
    return known[parent]


def _default_windows(case: UseCase, known: Release | None, now: datetime) -> tuple[Window, ...]:
    if known is not None:
        return (Window(start=known.cursor, end=now),)
    if case.training.first is None:
        raise UseCaseError(f"{case.name}: name the windows to train on, or training.first in the use case")
    return (case.training.first,)


def claim(project: Project, plan: Plan, *, owner: str, now: datetime) -> bool:
    """Claim the run's lease and open it: False where a living owner has it, or the key's run is finished."""
    ledger = project.ledger()
    decided = [
        one for one in ledger.decisions(plan.use_case) if one.action == "retrain" and one.retrain_key == plan.key
    ]
    granted = lease.begin(
        ledger,
        plan.key,
        use_case=plan.use_case,
        decision_id=decided[0].id if decided else None,
        owner=owner,
        now=now,
        seconds=project.profile.lease_seconds,
    )
    if granted:  # what isn't granted must leave the plan of the one that was
        storage.write_text(project.turn(plan, "plan.json"), plan.to_json())
    return granted


def build_training_set(project: Project, plan: Plan) -> TrainingSet:
    """Point-in-time rows of the plan's windows, split into what is trained on, replayed and judged on.

    `leakage.json` beside it says what a reader should know of them. LeakageError, before anything is computed, where
    the use case defines a feature that reads an outcome before it is known.
    """
    from evermodel.data.leakage import declared_leaks, refuse

    _, case = project.find(plan.use_case_uri)
    refuse(declared_leaks(case))
    rows = training_sets.turn_rows(
        case,
        project.log(case),
        windows=plan.windows,
        now=plan.now,
        champion_cursor=plan.champion.cursor if plan.champion else None,
        mode=plan.mode,
        seed=case.training.seed,
    )
    saved = training_sets.save(case, rows, project.turn(plan, "training_set"))
    storage.write_text(project.turn(plan, "leakage.json"), _leakage(case, rows))
    storage.write_text(project.turn(plan, "training_set.json"), saved.to_json())
    return saved


def _leakage(case: UseCase, rows: training_sets.TurnRows) -> str:
    """The findings of the leakage report for every label, each once, as JSON."""
    from evermodel.data.leakage import leakage_report

    both = pa.concat_tables([rows.train, rows.gate])
    trained = np.arange(both.num_rows) < rows.train.num_rows
    found = {
        finding.to_json(): finding
        for objective in case.objectives
        for finding in leakage_report(case, both, train=trained, label=objective.label)
    }
    return canonical_json([finding.model_dump(mode="json") for finding in found.values()])


def train(project: Project, plan: Plan, rows: TrainingSet) -> Release:
    """Train every objective; the release, with its bundles, lies in the run's folder. Here, or on a Ray of its own."""
    from evermodel import job

    profile, out = project.profile, project.turn(plan)
    if profile.ray_job:
        from evermodel.retraining.rayjob import on_ray

        storage.write_text(storage.join(out, "plan.json"), plan.to_json())
        storage.write_text(storage.join(out, "training_set.json"), rows.to_json())
        on_ray(profile, "train", out, key=plan.key, use_case=plan.use_case)
        release = Release.from_json(storage.read_text(storage.join(out, "release.json")))
    else:
        release = job.train(plan, rows, out=out, num_workers=profile.num_workers)
    project.ledger().record_release(release, now=plan.now)
    return release


def evaluate(project: Project, plan: Plan, rows: TrainingSet, release: Release) -> EvaluationReport:
    """Judge the challenger against the champion on the gate's rows, and leave report, card and reference beside it."""
    from evermodel.evaluation.card import model_card
    from evermodel.evaluation.evaluate import evaluate as judge
    from evermodel.evaluation.report import html, markdown
    from evermodel.retraining.turn import leave, reference_of

    _, case = project.find(plan.use_case_uri)
    turn = training_sets.load(rows)
    challenger = bundle.open_release(release)
    champion = bundle.open_release(plan.champion) if plan.champion else None
    report = judge(case, challenger, champion, turn, now=plan.now)
    leave(release, report, reference_of(case, challenger, turn, report))
    project.ledger().record_release(release, now=plan.now, verdict=report.verdict)
    manifests = [bundle.open_bundle(part).manifest for part in release.bundles]
    storage.write_text(storage.join(release.home, "report.html"), html(report))
    storage.write_text(storage.join(release.home, "report.md"), markdown(report))
    storage.write_text(storage.join(release.home, "card.md"), model_card(case, release, manifests, report))
    return report


def read_run(project: Project, reference: str, key: str) -> tuple[Plan, TrainingSet, Release]:
    """What `claim`, `build_training_set` and `train` have left of the run `key`."""
    _, case = project.find(reference)
    home = project.profile.place(case.name, "turns", key)
    if not storage.exists(storage.join(home, "release.json")):
        runs = {
            Path(uri).parent.name
            for uri in storage.list_files(project.profile.place(case.name, "turns"), suffix="release.json")
        }
        raise UseCaseError(f"{case.name}: no trained run {key!r}; {nearest(key, runs)}")
    plan_text, rows_text, release_text = (
        storage.read_text(storage.join(home, name)) for name in ("plan.json", "training_set.json", "release.json")
    )
    return Plan.from_json(plan_text), TrainingSet.from_json(rows_text), Release.from_json(release_text)


def read_report(release: Release) -> EvaluationReport:
    """The report that `evaluate` left with a release; UseCaseError where it wasn't judged yet."""
    uri = storage.join(release.home, "report.json")
    if not storage.exists(uri):
        raise UseCaseError(f"release {release.id} wasn't judged yet: run `evermodel evaluate` first")
    return EvaluationReport.from_json(storage.read_text(uri))


def register(project: Project, plan: Plan, release: Release, report: EvaluationReport) -> str:
    """Log the release to the registry, whatever its verdict; the registry's run id."""
    from evermodel.registry.store import Store

    manifests = [bundle.open_bundle(part).manifest for part in release.bundles]
    _, case = project.find(plan.use_case_uri)
    return Store(project.profile.mlflow_uri).log_release(case, release, manifests, report)


def promote(
    project: Project,
    plan: Plan,
    release: Release,
    report: EvaluationReport,
    *,
    actor: str,
    override: str | None = None,
) -> str:
    """Carry out the gate's verdict in the ledger and end the run; the verdict's word.

    `override` promotes against the gate, for a reason that the audit record keeps.
    """
    from evermodel.registry.promotion import promote as commit

    ledger = project.ledger()
    word = "promote" if override else report.verdict.word
    if word == "promote":
        commit(
            ledger,
            release,
            verdict=report.verdict,
            expected=plan.champion.id if plan.champion else None,
            now=plan.now,
            actor=actor,
            reason=override or plan.reason,
            override=override is not None,
        )
    result = {"release": release.id, "verdict": word, "reasons": list(report.verdict.reasons)}
    ledger.finish_run(plan.key, state=RUN_STATES[word], result=result, now=plan.now)
    return word


def project_aliases(project: Project, name: str) -> dict[str, str]:
    """Re-apply the registry's aliases until they say what the ledger says."""
    from evermodel.registry.store import Store

    return Store(project.profile.mlflow_uri).project(project.ledger(), name)


def rollback(project: Project, reference: str, *, now: datetime, actor: str, reason: str) -> Promotion:
    """Put the previous champion back."""
    from evermodel.registry.promotion import rollback as undo

    _, case = project.find(reference)
    ledger = project.ledger()
    champion = ledger.champion(case.name)
    if champion is None:
        raise EvermodelError(f"{case.name}: there is no champion to roll back from")
    return undo(ledger, case.name, now=now, actor=actor, reason=reason, leave=champion.id)


def newest_window(case: UseCase, *, now: datetime) -> Window:
    """The last whole monitoring window before `now`, on a grid of its length from the epoch."""
    length = case.monitoring.window
    end = micros(now) // length * length
    return Window(start=from_micros(end - length), end=from_micros(end))


def monitor(
    project: Project, reference: str, *, window: Window, now: datetime, page: str | None = None
) -> MonitoringReport:
    """Look at one window of answers with the labels known at `now`; its report and alerts go to the ledger.

    With `page` (path or URI) an Evidently report is written there and to the project's Evidently workspace, for every
    window or for those that alerted, as the use case says.
    """
    _, case = project.find(reference)
    ledger = project.ledger()
    if ledger.champion(case.name) is None:
        raise EvermodelError(f"{case.name}: there is no champion to monitor; train the first")
    report, served, champion = _look(project, case, window, now=now)
    ledger.record_window(report, now=now)
    for alert in report.alerts:
        ledger.record_alert(alert, now=now)
    for older in _ripened(case, ledger.windows(case.name), report, now=now):
        again, _, _ = _look(project, case, older, now=now)
        ledger.record_window(again, now=now)
        for alert in again.alerts:
            if alert.kind == "performance":  # all else was known when it was the newest
                ledger.record_alert(alert, now=now)
    if page is not None and served.num_rows and (report.alerts or case.monitoring.report == "always"):
        from evermodel.monitoring.report import write_report

        rows = training_sets.load(_training_set(champion)).train
        workspace = storage.join(project.profile.state_uri, "evidently")
        write_report(case, report, served, rows, out=page, workspace=workspace)
    return report


def _look(
    project: Project, case: UseCase, window: Window, *, now: datetime
) -> tuple[MonitoringReport, pa.Table, Release]:
    """A window's report, its served rows, and the champion that it is held against. Nothing is recorded."""
    from evermodel.monitoring.cohorts import served_rows
    from evermodel.monitoring.monitor import monitor as look
    from evermodel.monitoring.skew import skew
    from evermodel.retraining.turn import reference_for
    from evermodel.serving.request_log import RequestLog

    answers = RequestLog(project.profile.place(case.name, "requests")).read(window)
    champion = _answering(project.ledger().promotions(case.name), answers)
    served = served_rows(case, answers, project.log(case), now=now)
    offline = training_sets.rows(case, project.log(case), window=window, now=now, labelled=False)
    differs = skew(case, served, offline) if served.num_rows else {}
    reference = reference_for(champion)
    report = look(case, served, reference, window=window, now=now, champion=champion.id, skew=differs)
    return report, served, champion


def _ripened(
    case: UseCase, known: Sequence[MonitoringReport], newest: MonitoringReport, *, now: datetime
) -> list[Window]:
    """The same champion's earlier windows whose last labels have come since the look before this one: where labels
    take longer than a window, only now is their performance known."""
    maturity = timedelta(microseconds=case.maturity)
    earlier = [one for one in known if one.window.end < newest.window.end]
    looked = max((one.window.end for one in earlier), default=now)
    own = [one.window for one in earlier if one.champion == newest.champion]
    return [window for window in own if looked < window.end + maturity <= now]


def _training_set(release: Release) -> TrainingSet:
    """What `build_training_set` left of the run that made a release."""
    return TrainingSet.from_json(storage.read_text(storage.join(release.home, "training_set.json")))


def _answering(promotions: Sequence[Promotion], answers: pa.Table) -> Release:
    """The newest champion that a window was answered by: looked at again after a promotion, a window mustn't be held
    against a champion that wasn't there. The present one where nobody answered."""
    seen = set(answers["release"].to_pylist()) if "release" in answers.column_names else set()
    return next((row.release for row in reversed(promotions) if row.release.id in seen), promotions[-1].release)


def decide(project: Project, reference: str, *, now: datetime) -> Decision:
    """Ask the policy; its answer is recorded, and asking twice is the same row."""
    from evermodel.retraining.policy import decide as ask
    from evermodel.retraining.policy import schedule_alert

    _, case = project.find(reference)
    ledger = project.ledger()
    lease.tidy(ledger, case.name, now=now)
    standing = ledger.standing(case, now=now, new_rows=_new_rows(project, case, ledger.champion(case.name), now))
    if (due := schedule_alert(case, standing, now=now)) is not None:
        ledger.record_alert(due, now=now)
    alerts = ledger.alerts(case.name, champion=standing.champion)
    return ledger.record_decision(ask(case, alerts, standing, now=now))


def _new_rows(project: Project, case: UseCase, champion: Release | None, now: datetime) -> int:
    """Matured rows that the champion hasn't been trained on."""
    start = champion.cursor if champion else None
    end = now - timedelta(microseconds=case.maturity - 1)  # a row is matured at the instant its delay is over
    if start is None or start >= end:
        return 0
    window = Window(start=start, end=end)
    return int(project.log(case).read(case.predict.source, window=window, columns=["ingest_seq"]).num_rows)


def retrain(
    project: Project, reference: str, *, windows: str, mode: str, reason: str, now: datetime
) -> dict[str, object]:
    """Run the training pipeline to its end; the run as the ledger has it: key, state, release, verdict, reasons, log."""
    from evermodel.arguments import spans
    from evermodel.retraining.launch import launch, training_parameters

    todo = plan(project, reference, now=now, windows=spans(windows), mode=mode_of(mode), reason=reason)
    parameters = training_parameters(
        use_case=todo.use_case_uri,
        windows=windows,
        mode=mode,
        reason=todo.reason,
        now=now,
        key=todo.key,
    )
    done = launch(project.profile, "training", parameters, log_name=f"training-{todo.key}")
    run = next((run for run in project.ledger().runs(todo.use_case) if run.key == todo.key), None)
    if run is None:
        raise EvermodelError(f"run {todo.key} wasn't started: another one of {todo.use_case} is running")
    return {"key": run.key, "state": run.state, **run.result, "log": done.log}


def mode_of(text: str) -> Mode | None:
    """A mode as a person writes it; empty: none said."""
    if text not in ("", "stateful", "from_scratch"):
        raise UseCaseError(f"mode {text!r}: write stateful or from_scratch")
    return text or None  # type: ignore[return-value]


def predict_batch(project: Project, reference: str, *, window: Window | None, now: datetime) -> str:
    """Score a window's rows with the champion; the URI of the Parquet folder. Here, or on a Ray of its own."""
    from evermodel import job

    uri, case = project.find(reference)
    champion = project.ledger().champion(case.name)
    if champion is None or window is None:
        raise UseCaseError(f"{case.name}: batch prediction needs a champion and a window (START..END)")
    rows = training_sets.rows(case, project.log(case), window=window, now=now, labelled=False)
    home = project.profile.place(case.name, "predictions", champion.id, str(window).replace(":", ""))
    rows_uri = storage.join(home, "rows.parquet")
    digest = storage.write_table(rows_uri, rows)
    batch = job.Batch(
        use_case_uri=uri,
        use_case_digest=case.digest(),
        release=champion,
        rows_uri=rows_uri,
        rows_digest=digest,
        out_uri=storage.join(home, "scores"),
    )
    if project.profile.ray_job:
        from evermodel.retraining.rayjob import on_ray

        storage.write_text(storage.join(home, "batch.json"), batch.to_json())
        on_ray(project.profile, "predict-batch", home, key=batch.content_digest()[:16], use_case=case.name)
    else:
        job.predict_batch(batch, num_actors=max(project.profile.num_workers, 1))
    return batch.out_uri


def materialize(project: Project, reference: str, *, now: datetime) -> int:
    """Bring the online store up to `now`; how many entities were written."""
    from evermodel.features.online import materialize as write
    from evermodel.features.online import open_store

    _, case = project.find(reference)
    profile = project.profile
    store = open_store(profile.online_features, password_file=profile.online_store_password_file)
    return write(case, project.log(case), store, offline_root=project.profile.offline_features, now=now)


def apply_features(project: Project) -> list[str]:
    """Register every use case's features with Feast; the names of what is registered."""
    from evermodel.features.repository import apply

    profile = project.profile
    cases = [use_cases.load(path) for path in storage.list_files(profile.root / "use_cases", suffix=".yaml")]
    places = {
        "EVERMODEL_LEDGER": profile.ledger_url,
        "EVERMODEL_ONLINE_STORE": profile.online_features,
        "EVERMODEL_ONLINE_STORE_PASSWORD_FILE": profile.online_store_password_file or "",
    }
    repo = profile.root / profile.feature_repo
    return apply(repo, cases, profile.offline_features, file=profile.feature_store, places=places)


def status(project: Project, reference: str | None, *, now: datetime) -> list[dict[str, object]]:
    """Champion, its age in days, alerts against it and the last run, of each use case of the project."""
    ledger = project.ledger()
    paths = storage.list_files(project.profile.root / "use_cases", suffix=".yaml")
    cases = [project.find(reference or path)[1] for path in ([reference] if reference else paths)]
    return [_status(ledger, case, now) for case in cases]


def _status(ledger: Ledger, case: UseCase, now: datetime) -> dict[str, object]:
    promotions = ledger.promotions(case.name)
    champion = ledger.champion(case.name)
    runs = ledger.runs(case.name)
    age = (now - promotions[-1].at) / timedelta(days=1) if promotions else None
    return {
        "use_case": case.name,
        "champion": champion.id if champion else None,
        "age_days": round(age, 1) if age is not None else None,
        "promotions": len(promotions),
        "alerts": len(ledger.alerts(case.name, champion=champion.id)) if champion else 0,
        "decisions": len(ledger.decisions(case.name)),
        "last_run": f"{runs[-1].key} {runs[-1].state}" if runs else None,
    }


def serve(project: Project, names: Sequence[str], *, port: int, simulated_time: bool) -> int:
    """Answer over HTTP until interrupted: the project's own `serving` app, with the project's places; its exit status."""
    import subprocess
    import sys

    from evermodel.retraining.launch import environment

    found = [project.find(name) for name in names]
    arguments = {
        "use_cases": {case.name: uri for uri, case in found},
        "state": project.profile.state_uri,
        "ledger": project.profile.ledger_url,
        "online_store": project.profile.online_features,
        "simulated_time": simulated_time,
        "flush_seconds": 1.0,
    }
    command = [sys.executable, "-m", "serving", "--port", str(port), "--args", canonical_json(arguments)]
    return subprocess.call(command, cwd=project.profile.root, env=environment(project.profile))
