"""A model card (Mitchell et al. 2019, "Model Cards for Model Reporting"): what a release is, comes from, does and doesn't do."""

from __future__ import annotations

from collections.abc import Sequence

from evermodel.records import EvaluationReport, Release, TrainingManifest
from evermodel.reports.evaluation import (
    baseline_table,
    check_table,
    gate_metric,
    metric_table,
    slice_table,
    table,
)
from evermodel.use_case import UseCase, format_duration


def model_card(
    use_case: UseCase, release: Release, manifests: Sequence[TrainingManifest], report: EvaluationReport
) -> str:
    """The card of a release as Markdown. `manifests`: of its bundles, carried ones included."""
    parts = [
        f"# {use_case.name} · {release.id}",
        use_case.description,
        _details(use_case, release),
        _use(use_case),
        _training(use_case, manifests),
        _evaluation(report),
        _limits(use_case, report),
        _reproduce(release, manifests),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _details(use_case: UseCase, release: Release) -> str:
    rows = [
        (objective.name, objective.label, objective.model.kind, f"{release.weights.get(objective.name, 0.0):g}")
        for objective in use_case.objectives
    ]
    return (
        "## Model\n\n"
        f"- framing: {use_case.framing}\n"
        f"- made: {release.created:%Y-%m-%d %H:%M} UTC\n"
        f"- parent: {release.parent or 'none, trained from the beginning'}\n"
        f"- features: {', '.join(use_case.feature_columns())}\n\n"
        f"{table(('objective', 'label', 'model', 'weight in the score'), rows)}"
    )


def _use(use_case: UseCase) -> str:
    delay = format_duration(use_case.maturity)
    predicted = use_case.predict
    asked = f"one score for each row of `{predicted.source}`"
    if predicted.group is not None:
        asked += f", ranked within `{predicted.group}`"
    if predicted.catalogue is not None:
        asked += f", ranking all of `{predicted.catalogue}`"
    return f"## Intended use\n\nIt gives {asked}. Its labels are known {delay} later; it is retrained as they come."


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
    heads = ("objective", "mode", "windows", "rows", "of them replayed", "epochs", "seconds", "final loss")
    sources = [f"- `{source.name}`: {source.provenance or 'no provenance given'}" for source in use_case.sources]
    return "## Training data\n\n" + "\n".join(sources) + f"\n\n{table(heads, rows)}"


def _evaluation(report: EvaluationReport) -> str:
    metric = gate_metric(report)
    text = [
        f"## Evaluation\n\nOn {report.rows:,} rows of {report.window}, none of them trained on, beside "
        f"{'champion ' + report.champion if report.champion else 'no champion'}. The gate said **{report.verdict.word}**.",
        "\n".join(f"- {reason}" for reason in report.verdict.reasons),
        table(("metric", "this release", "champion", "better by"), metric_table(report)),
    ]
    if report.baselines:
        text.append(table(("baseline", metric), baseline_table(report)))
    if report.slices:
        text.append(table(("slice", "value", "rows", metric, "champion"), slice_table(report)))
    text.append(table(("check", "level", "outcome", "reason"), check_table(report)))
    return "\n\n".join(text)


def _limits(use_case: UseCase, report: EvaluationReport) -> str:
    """What the report itself says isn't known or isn't good."""
    known = [f"- {check.name}: {check.reason}" for check in report.verdict.checks if not check.passed]
    unknown = [name for name, value in report.metrics.items() if value is None]
    thin = [f"{part.slice}: {part.value}" for part in report.slices if part.metric is None]
    if unknown:
        known.append(f"- not defined on these rows: {', '.join(unknown)}")
    if thin:
        known.append(f"- too few rows to judge: {', '.join(thin)}")
    if not use_case.slices:
        known.append("- no slices are declared: how it does on parts of the rows isn't known")
    if not use_case.behaviour:
        known.append("- no behaviour tests are declared")
    return "## Limits\n\n" + ("\n".join(known) or "None that the evaluation found.")


def _reproduce(release: Release, manifests: Sequence[TrainingManifest]) -> str:
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
    return f"## Where it came from\n\n{table(heads, rows)}"
