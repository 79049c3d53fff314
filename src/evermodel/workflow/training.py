"""Training and evaluation: from a run's rows to an evaluated release."""

from __future__ import annotations

from evermodel import storage
from evermodel.records import EvaluationReport, Plan, Release, TrainingSet
from evermodel.run_folder import RunFolder
from evermodel.workflow.project import Project


def train(project: Project, plan: Plan, rows: TrainingSet) -> Release:
    """Train every objective into the run's folder, in this process or on a Ray cluster of its own; the release."""
    from evermodel.training import release as releases

    profile, folder = project.profile, project.run_folder(plan)
    if profile.ray_job:
        from evermodel.execution.ray_job import run_ray_job

        folder.write_plan(plan)
        folder.write_training_set(rows)
        run_ray_job(profile, "train", folder.uri, key=plan.key, use_case=plan.use_case)
        release = folder.read_release()
    else:
        _, case = project.find(plan.use_case_uri)
        case.check_digest(plan.use_case_digest, plan.use_case_uri)
        release = releases.train_release(
            case,
            project.load_training_set(rows),
            parent=project.open_release(plan.parent) if plan.parent else None,
            mode=plan.mode,
            trigger=plan.trigger,
            now=plan.now,
            out=folder.uri,
            num_workers=profile.num_workers,
            reason=plan.reason,
        ).release
    project.ledger().record_release(release, now=plan.now)
    return release


def evaluate(project: Project, plan: Plan, rows: TrainingSet, release: Release) -> EvaluationReport:
    """Compare the challenger with the champion on the gate rows; report, reference and pages go to the release's folder."""
    from evermodel.evaluation import evaluate as evaluation
    from evermodel.retraining import rounds

    _, case = project.find(plan.use_case_uri)
    training_rows = project.load_training_set(rows)
    challenger = project.open_release(release)
    champion = project.open_release(plan.champion) if plan.champion else None
    report = evaluation.evaluate(case, challenger, champion, training_rows, now=plan.now)
    rounds.write_results(release, report, rounds.make_reference(case, challenger, training_rows, report))
    project.ledger().record_release(release, now=plan.now, verdict=report.verdict)
    if project.writes_pages:
        from evermodel.reports import card
        from evermodel.reports import evaluation as pages

        folder = RunFolder(release.home)
        manifests = [bundle.manifest for bundle in challenger.bundles.values()]
        storage.write_text(folder.report_page, pages.render_html(report))
        storage.write_text(folder.report_text, pages.render_markdown(report))
        storage.write_text(folder.card, card.render_card(case, release, manifests, report))
    return report
