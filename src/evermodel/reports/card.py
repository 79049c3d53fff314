"""A model card (Mitchell et al. 2019, "Model Cards for Model Reporting"): what a release is, where it comes from, and
what its evaluation says for and against it."""

from __future__ import annotations

from collections.abc import Sequence

from evermodel.records import EvaluationReport, Release, TrainingManifest
from evermodel.reports.evaluation import baseline_rows, check_rows, markdown_table, metric_rows, slice_rows
from evermodel.use_case import UseCase, format_duration


def render_card(
    use_case: UseCase, release: Release, manifests: Sequence[TrainingManifest], report: EvaluationReport
) -> str:
    """The card of a release as Markdown. `manifests` are those of all its bundles, also of bundles that it took over."""
    parts = [
        f"# {use_case.name} · {release.id}",
        use_case.description,
        _model(use_case, release),
        _intended_use(use_case),
        _training(use_case, manifests),
        _evaluation(report),
        _limits(use_case, report),
        _origin(release, manifests),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _model(use_case: UseCase, release: Release) -> str:
    rows = [
        (objective.name, objective.label, objective.model.kind, f"{release.weights.get(objective.name, 0.0):g}")
        for objective in use_case.objectives
    ]
    return (
        "## Model\n\n"
        f"- framing: {use_case.framing}\n"
        f"- created: {release.created:%Y-%m-%d %H:%M} UTC\n"
        f"- parent: {release.parent or 'none, trained from the beginning'}\n"
        f"- features: {', '.join(use_case.feature_columns())}\n\n"
        f"{markdown_table(('objective', 'label', 'model', 'weight in the score'), rows)}"
    )


def _intended_use(use_case: UseCase) -> str:
    delay = format_duration(use_case.maturity)
    predict = use_case.predict
    task = f"one score for each row of `{predict.source}`"
    if predict.group is not None:
        task += f", ranked within `{predict.group}`"
    if predict.catalogue is not None:
        task += f", ranking all of `{predict.catalogue}`"
    return f"## Intended use\n\nThe release gives {task}. Its labels are known {delay} later; it is retrained as they come."


def _training(use_case: UseCase, manifests: Sequence[TrainingManifest]) -> str:
    rows = [
        (
            manifest.objective,
            manifest.mode,
            "; ".join(str(window) for window in manifest.windows),
            f"{manifest.rows:,}",
            f"{manifest.rehearsal_rows:,}",
            f"{manifest.epochs}",
            f"{manifest.seconds:.1f}",
            f"{manifest.final_loss:.4f}",
        )
        for manifest in manifests
    ]
    heads = ("objective", "mode", "windows", "rows", "rehearsal rows", "epochs", "seconds", "final loss")
    sources = [f"- `{source.name}`: {source.provenance or 'no provenance given'}" for source in use_case.sources]
    return "## Training data\n\n" + "\n".join(sources) + f"\n\n{markdown_table(heads, rows)}"


def _evaluation(report: EvaluationReport) -> str:
    metric = report.verdict_metric
    champion = f"with champion {report.champion} on the same rows" if report.champion else "without a champion"
    text = [
        f"## Evaluation\n\nOn {report.rows:,} rows of {report.window}, none of them trained on, {champion}. "
        f"The gate's verdict is **{report.verdict.word}**.",
        "\n".join(f"- {reason}" for reason in report.verdict.reasons),
        markdown_table(("metric", "this release", "champion", "better by"), metric_rows(report)),
    ]
    if report.baselines:
        text.append(markdown_table(("baseline", metric), baseline_rows(report)))
    if report.slices:
        text.append(markdown_table(("slice", "value", "rows", metric, "champion"), slice_rows(report)))
    text.append(markdown_table(("check", "level", "outcome", "reason"), check_rows(report)))
    return "\n\n".join(text)


def _limits(use_case: UseCase, report: EvaluationReport) -> str:
    """What the report shows as bad or as unknown."""
    known = [f"- {check.name}: {check.reason}" for check in report.verdict.checks if not check.passed]
    undefined = [name for name, value in report.metrics.items() if value is None]
    too_few = [f"{part.slice}: {part.value}" for part in report.slices if part.metric is None]
    if undefined:
        known.append(f"- not defined on these rows: {', '.join(undefined)}")
    if too_few:
        known.append(f"- too few rows to judge: {', '.join(too_few)}")
    if not use_case.slices:
        known.append("- no slices are declared, so the quality on parts of the rows is unknown")
    if not use_case.behaviour:
        known.append("- no behaviour tests are declared")
    return "## Limits\n\n" + ("\n".join(known) or "The evaluation found none.")


def _origin(release: Release, manifests: Sequence[TrainingManifest]) -> str:
    digests = {bundle.objective: bundle.digest for bundle in release.bundles}
    rows = [
        (
            manifest.objective,
            f"`{digests.get(manifest.objective, '')[:16]}`",
            f"`{(manifest.parent or 'none')[:16]}`",
            f"`{manifest.data_version[:16]}`",
            f"`{manifest.row_digest[:16]}`",
            f"`{manifest.config_digest[:16]}`",
            f"`{manifest.code_version[:16]}`",
            str(manifest.seed),
        )
        for manifest in manifests
    ]
    heads = ("objective", "bundle", "parent", "data version", "row digest", "config", "code", "seed")
    return f"## Where it comes from\n\n{markdown_table(heads, rows)}"
