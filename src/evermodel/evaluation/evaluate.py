"""Evaluate a challenger beside its champion and the baselines on rows it never trained on, and apply the gate.

Rows are scored as served (`as_served`). First, the packed model must score one row and a row of nulls. If it can't,
nothing else is measured, and the gate rejects it with that reason.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evermodel import storage
from evermodel.bundle import TIMING
from evermodel.clock import from_micros, micros
from evermodel.columns import put_column, valid_mask
from evermodel.errors import DataError
from evermodel.evaluation import baselines, behaviour, bootstrap, calibration, metrics, slices
from evermodel.evaluation.gate import BaselineResult, Measurements, judge
from evermodel.evaluation.samples import Sample, build_sample, evaluated_rows, label_of, sample_of
from evermodel.features.as_served import as_served
from evermodel.records import EvaluationReport, Interval, Release
from evermodel.scores import Scores, ServableRelease, combine
from evermodel.use_case import METRICS, UseCase, metric_names

if TYPE_CHECKING:
    from evermodel.features.training_set import TrainingRows

ROC_POINTS = 200


@dataclass(frozen=True)
class ScoredRelease:
    """A release's scores of the gate's rows, the metrics of each objective, and the milliseconds for each row.

    `first` has the first objective's own scores if there are several: a weighted sum has no calibration.
    """

    sample: Sample
    first: Sample
    by_objective: dict[str, float | None]
    milliseconds: float


def evaluate(
    use_case: UseCase,
    challenger: ServableRelease,
    champion: ServableRelease | None,
    rows: TrainingRows,
    *,
    now: datetime,
    seed: int = 0,
    fitted_baselines: bool | None = None,
) -> EvaluationReport:
    """Evaluate `challenger` on `rows.gate`. `fitted_baselines` None: boosting is fitted if there is no champion.

    DataError if a gate row was trained on, or if its labels aren't mature at `now`.
    """
    _check_rows(use_case, rows, now)
    gate = gate_rows(use_case, rows.gate)
    name = use_case.gate.metric or use_case.evaluation.metric
    size = packed_bytes(challenger.release)
    failure = smoke_failure(use_case, challenger, gate if gate.num_rows else rows.train)
    ours = _score_release(use_case, challenger, gate) if failure is None else None
    if ours is not None and not ours.sample.scores.finite.all():
        failure, ours = "the scores of some gate rows aren't finite", None
    if ours is None:
        measured = Measurements(name, gate.num_rows, champion is not None, model_bytes=size, smoke_failure=failure)
        return _report(use_case, challenger, champion, rows, measured, None, None)
    rng = np.random.default_rng(seed)
    theirs = _score_release(use_case, champion, gate) if champion else None
    fitted = champion is None if fitted_baselines is None else fitted_baselines
    measured = Measurements(
        metric=name,
        rows=gate.num_rows,
        has_champion=champion is not None,
        model_bytes=size,
        value=_figure(use_case, name, ours.sample),
        champion_value=_figure(use_case, name, theirs.sample) if theirs else None,
        difference=_difference(use_case, name, ours.sample, theirs.sample, rng) if theirs else None,
        baselines=_baselines(use_case, name, rows.train, gate, ours, theirs, fitted, rng),
        slices=slices.measure(use_case, gate, ours.sample, theirs.sample if theirs else None, metric=name),
        behaviour=behaviour.run_tests(use_case, lambda table: score_served(use_case, challenger, table), gate, rng=rng),
        calibration_error=metrics.calibration_error(ours.first),
    )
    return _report(use_case, challenger, champion, rows, measured, ours, theirs)


# rows ---------------------------------------------------------------------------------------------------------------


def gate_rows(use_case: UseCase, gate: pa.Table) -> pa.Table:
    """The rows that are evaluated: those of `evaluation.rows` with a known label."""
    known = valid_mask(gate[f"label:{label_of(use_case)}"])
    return gate.filter(pa.array(known & evaluated_rows(use_case, gate)))


def score_served(use_case: UseCase, release: ServableRelease, rows: pa.Table) -> Scores:
    """The release's combined scores of the rows as served."""
    return combine(release.scores(as_served(use_case, rows)), release.release.weights)


def _check_rows(use_case: UseCase, rows: TrainingRows, now: datetime) -> None:
    if rows.gate.num_rows == 0:
        return
    newest = pc.max(rows.gate["event_time"]).cast(pa.int64()).as_py()
    if newest + use_case.maturity > micros(now):
        mature = from_micros(newest + use_case.maturity)
        raise DataError(f"a gate row's labels are mature at {mature.isoformat()}, after now, {now.isoformat()}")
    trained = [rows.train["row_id"].to_numpy()] + (
        [rows.rehearsal["row_id"].to_numpy()] if rows.rehearsal is not None else []
    )
    both = np.intersect1d(np.concatenate(trained), rows.gate["row_id"].to_numpy())
    if len(both):
        raise DataError(f"{len(both)} gate rows were trained on, such as row_id {both[0]}: evaluate on unseen rows")


# measuring ----------------------------------------------------------------------------------------------------------


def smoke_failure(use_case: UseCase, release: ServableRelease, rows: pa.Table) -> str | None:
    """Score one row, and the same row with every feature null; what is wrong with the scores, or None."""
    if rows.num_rows == 0:
        return "there is no row to send to the packed model"
    row = rows.slice(0, 1)
    blank = row
    for column in use_case.feature_columns():
        blank = put_column(blank, column, pa.nulls(1, blank[column].type))
    kind = use_case.label(label_of(use_case)).type
    for name, request in (("a row", row), ("a row of nulls", blank)):
        try:
            scores = score_served(use_case, release, request)
        except Exception as error:  # whatever a model can raise is a reason of the verdict
            return f"for {name}, the packed model raised {type(error).__name__}: {error}"
        if scores.is_category != (kind == "category"):
            return f"for {name}, the packed model gave {scores.kind} scores, but the label is a {kind}"
        if len(scores) != 1:
            return f"for {name}, the packed model gave {len(scores)} scores"
        if not scores.finite.all():
            return f"for {name}, the packed model gave a score that isn't finite"
    return None


def packed_bytes(release: Release) -> int:
    """Bytes of the release's bundles in storage, without the timing file beside each, which is no part of the model."""
    files = [file for ref in release.bundles for file in (storage.list_files(ref.uri) or [ref.uri])]
    return sum(storage.size(file) for file in files if not file.endswith(f"/{TIMING}"))


def _score_release(use_case: UseCase, release: ServableRelease, rows: pa.Table) -> ScoredRelease:
    rows = as_served(use_case, rows)
    started = time.perf_counter()
    scores = release.scores(rows)
    combined = combine(scores, release.release.weights)
    elapsed = time.perf_counter() - started
    sample = sample_of(use_case, rows, combined)
    samples = _objective_samples(use_case, rows, scores) if len(use_case.objectives) > 1 else {}
    first = samples.get(use_case.objectives[0].name, sample)
    return ScoredRelease(sample, first, _objective_metrics(use_case, samples), 1000 * elapsed / max(1, rows.num_rows))


def _objective_samples(use_case: UseCase, rows: pa.Table, scores: Mapping[str, Scores]) -> dict[str, Sample]:
    """Each objective's scores with its own label."""
    return {
        objective.name: build_sample(scores[objective.name], rows[f"label:{objective.label}"])
        for objective in use_case.objectives
    }


def _objective_metrics(use_case: UseCase, samples: Mapping[str, Sample]) -> dict[str, float | None]:
    """Each objective's metrics by its label's type: {"order:auc": 0.71, …}."""
    framings = {"binary": "binary", "number": "regression", "category": "multiclass"}
    return {
        f"{objective.name}:{name}": _figure(use_case, name, samples[objective.name])
        for objective in use_case.objectives
        if objective.name in samples
        for name in metric_names(framings[use_case.label(objective.label).type])
    }


def _figure(use_case: UseCase, name: str, sample: Sample) -> float | None:
    return metrics.figure(name, sample, k=use_case.evaluation.k, threshold=use_case.evaluation.threshold)


def _difference(
    use_case: UseCase, name: str, ours: Sample, theirs: Sample, rng: np.random.Generator
) -> Interval | None:
    settings, gate = use_case.evaluation, use_case.gate
    return bootstrap.paired(
        name,
        ours,
        theirs,
        k=settings.k,
        threshold=settings.threshold,
        resamples=gate.resamples,
        confidence=gate.confidence,
        rng=rng,
    )


def _baselines(
    use_case: UseCase,
    name: str,
    train: pa.Table,
    gate: pa.Table,
    ours: ScoredRelease,
    theirs: ScoredRelease | None,
    fitted: bool,
    rng: np.random.Generator,
) -> tuple[BaselineResult, ...]:
    if gate.num_rows == 0:
        return ()
    challenger = _figure(use_case, name, ours.sample)
    champion = _figure(use_case, name, theirs.sample) if theirs else None
    served = as_served(use_case, gate)
    results = []
    for baseline in baselines.score_baselines(use_case, train, served, metric=name, fitted=fitted, rng=rng):
        value = None
        if baseline.scores is not None:
            value = _figure(use_case, name, sample_of(use_case, gate, baseline.scores))
        lead, champion_lead = _lead(name, challenger, value), _lead(name, champion, value)
        results.append(BaselineResult(baseline.name, value, lead, champion_lead, baseline.reason))
    return tuple(results)


def _lead(name: str, value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else METRICS[name].sign * (value - other)


# the report ---------------------------------------------------------------------------------------------------------


def _report(
    use_case: UseCase,
    challenger: ServableRelease,
    champion: ServableRelease | None,
    rows: TrainingRows,
    measured: Measurements,
    ours: ScoredRelease | None,
    theirs: ScoredRelease | None,
) -> EvaluationReport:
    unknown = dict.fromkeys(metric_names(use_case.framing))
    return EvaluationReport(
        use_case=use_case.name,
        challenger=challenger.release.id,
        champion=champion.release.id if champion else None,
        rows=measured.rows,
        window=rows.gate_window,
        metric=use_case.evaluation.metric,
        gate_metric=use_case.gate.metric,
        metrics={**metrics.figures(use_case, ours.sample), **ours.by_objective} if ours else unknown,
        champion_metrics={**metrics.figures(use_case, theirs.sample), **theirs.by_objective} if theirs else {},
        baselines={baseline.name: baseline.value for baseline in measured.baselines},
        slices=tuple(result.to_record() for result in measured.slices),
        calibration=_reliability(ours.first) if ours else (),
        roc=_roc_curve(use_case, ours.first) if ours else (),
        behaviour=measured.behaviour,
        model_bytes=measured.model_bytes,
        milliseconds_per_row=ours.milliseconds if ours else 0.0,
        verdict=judge(use_case.gate, measured),
    )


def _reliability(sample: Sample) -> tuple[tuple[float, float, int], ...]:
    pairs = metrics.calibration_pairs(sample)
    return calibration.reliability(*pairs) if pairs else ()


def _roc_curve(use_case: UseCase, sample: Sample) -> tuple[tuple[float, float, float], ...]:
    """At most ROC_POINTS points of the curve; the first one's threshold is the highest score."""
    from sklearn.metrics import roc_curve

    binary = use_case.label(label_of(use_case)).type == "binary"
    if not binary or len(np.unique(sample.labels)) < 2:
        return ()
    scores = sample.scores.values
    wrong, right, threshold = roc_curve(sample.labels > 0, scores)
    keep = np.unique(np.linspace(0, len(wrong) - 1, min(ROC_POINTS, len(wrong))).astype(int))
    threshold[0] = scores.max()
    return tuple((float(wrong[i]), float(right[i]), float(threshold[i])) for i in keep)
