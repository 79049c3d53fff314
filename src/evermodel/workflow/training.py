"""Training and evaluation: from a run's rows to a judged release."""

from __future__ import annotations

from evermodel import bundle, storage
from evermodel.features import training_set as training_sets
from evermodel.records import EvaluationReport, Plan, Release, TrainingSet
from evermodel.workflow.project import Project


def train(project: Project, plan: Plan, rows: TrainingSet) -> Release:
    """Train every objective; the release, with its bundles, lies in the run's folder. Here, or on a Ray of its own."""
    from evermodel.execution import entrypoint

    profile, out = project.profile, project.turn(plan)
    if profile.ray_job:
        from evermodel.execution.ray_job import run_ray_job

        storage.write_text(storage.join(out, "plan.json"), plan.to_json())
        storage.write_text(storage.join(out, "training_set.json"), rows.to_json())
        run_ray_job(profile, "train", out, key=plan.key, use_case=plan.use_case)
        release = Release.from_json(storage.read_text(storage.join(out, "release.json")))
    else:
        release = entrypoint.train(plan, rows, out=out, num_workers=profile.num_workers)
    project.ledger().record_release(release, now=plan.now)
    return release


def evaluate(project: Project, plan: Plan, rows: TrainingSet, release: Release) -> EvaluationReport:
    """Judge the challenger against the champion on the gate's rows, and leave report, card and reference beside it."""
    from evermodel.evaluation.evaluate import evaluate as judge
    from evermodel.reports.card import render_card
    from evermodel.reports.evaluation import render_html, render_markdown
    from evermodel.retraining.rounds import leave, reference_of

    _, case = project.find(plan.use_case_uri)
    turn = training_sets.load(rows)
    challenger = bundle.open_release(release)
    champion = bundle.open_release(plan.champion) if plan.champion else None
    report = judge(case, challenger, champion, turn, now=plan.now)
    leave(release, report, reference_of(case, challenger, turn, report))
    project.ledger().record_release(release, now=plan.now, verdict=report.verdict)
    manifests = [bundle.open_bundle(part).manifest for part in release.bundles]
    storage.write_text(storage.join(release.home, "report.html"), render_html(report))
    storage.write_text(storage.join(release.home, "report.md"), render_markdown(report))
    storage.write_text(storage.join(release.home, "card.md"), render_card(case, release, manifests, report))
    return report
