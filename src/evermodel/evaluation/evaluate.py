"""Measure a challenger beside its champion and the baselines on rows it never trained on, and ask the gate.

Rows are scored as serving would ask: a column with `serve_as` holds that value. The packed model is asked first for one
row and for a row of nulls; where it can't answer these, nothing else is measured and the gate says so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel import storage
from evermodel.bundle import TIMING
from evermodel.clock import from_micros, micros
from evermodel.errors import DataError
from evermodel.evaluation import baselines, behaviour, bootstrap, calibration, metrics, slices
from evermodel.evaluation.gate import BaselineResult, Measured, judge
from evermodel.evaluation.metrics import Sample
from evermodel.records import EvaluationReport, Release
from evermodel.use_case import METRICS, ColumnFeature, UseCase

if TYPE_CHECKING:
    from evermodel.features.training_set import TrainingRows

Floats = NDArray[np.float64]
ROC_POINTS = 200


class HasClasses(Protocol):
    """A bundle, as far as evaluation looks into it."""

    @property
    def classes(self) -> Sequence[str]: ...


class Scorer(Protocol):
    """An open release: what serving would answer with."""

    @property
    def release(self) -> Release: ...

    @property
    def bundles(self) -> Mapping[str, HasClasses]: ...

    def score(self, rows: pa.Table) -> NDArray[Any]: ...

    def scores(self, rows: pa.Table) -> dict[str, NDArray[Any]]: ...

    def combine(self, scores: Mapping[str, NDArray[Any]]) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Scored:
    """A release's answers to the gate's rows, each objective's figures, and the milliseconds a row took.

    `first` has the first objective's own score where there are more: of a weighted sum no calibration can be known.
    """

    sample: Sample
    first: Sample
    by_objective: dict[str, float | None]
    milliseconds: float


def evaluate(
    use_case: UseCase,
    challenger: Scorer,
    champion: Scorer | None,
    turn: TrainingRows,
    *,
    now: datetime,
    seed: int = 0,
    fitted_baselines: bool | None = None,
) -> EvaluationReport:
    """Judge `challenger` on `turn.gate`. `fitted_baselines` absent: boosting is fitted where there is no champion.

    DataError where a gate row was trained on, or its labels aren't mature at `now`.
    """
    _check_rows(use_case, turn, now)
    rows = gate_rows(use_case, turn.gate)
    name = use_case.gate.metric or use_case.evaluation.metric
    size = packed_bytes(challenger.release)
    failure = smoke_failure(use_case, challenger, rows if rows.num_rows else turn.train)
    ours = _scored(use_case, challenger, rows) if failure is None else None
    if ours is not None and not np.isfinite(ours.sample.scores).all():
        failure, ours = "some gate rows got a score that isn't finite", None
    if ours is None:
        measured = Measured(name, rows.num_rows, champion is not None, model_bytes=size, smoke_failure=failure)
        return _report(use_case, challenger, champion, turn, measured, None, None)
    rng = np.random.default_rng(seed)
    theirs = _scored(use_case, champion, rows) if champion else None
    fitted = champion is None if fitted_baselines is None else fitted_baselines
    measured = Measured(
        metric=name,
        rows=rows.num_rows,
        has_champion=champion is not None,
        model_bytes=size,
        value=_figure(use_case, name, ours.sample),
        champion_value=_figure(use_case, name, theirs.sample) if theirs else None,
        difference=_difference(use_case, name, ours.sample, theirs.sample, rng) if theirs else None,
        baselines=_baselines(use_case, name, turn.train, rows, ours, theirs, fitted, rng),
        slices=slices.measure(use_case, rows, ours.sample, theirs.sample if theirs else None, metric=name),
        behaviour=behaviour.run(use_case, lambda table: answers(use_case, challenger, table), rows, rng=rng),
        calibration_error=metrics.calibration_error(ours.first),
    )
    return _report(use_case, challenger, champion, turn, measured, ours, theirs)


# rows ---------------------------------------------------------------------------------------------------------------


def gate_rows(use_case: UseCase, gate: pa.Table) -> pa.Table:
    """The rows that are judged: those of `evaluation.rows` with a known label."""
    known = pc.is_valid(gate[f"label:{metrics.label_of(use_case)}"]).to_numpy()
    return gate.filter(pa.array(known & metrics.judged(use_case, gate)))


def as_served(use_case: UseCase, rows: pa.Table) -> pa.Table:
    """Columns with `serve_as` hold what serving always says: a position is learned from, and never answered by."""
    for feature in use_case.features:
        if isinstance(feature, ColumnFeature) and feature.serve_as is not None:
            place = rows.column_names.index(feature.name)
            same = pa.array([feature.serve_as] * rows.num_rows).cast(rows.schema.field(place).type)
            rows = rows.set_column(place, feature.name, same)
    return rows


def answers(use_case: UseCase, scorer: Scorer, rows: pa.Table) -> Floats:
    """The scores as serving would give them: float64[n] or [n, C]."""
    return np.asarray(scorer.score(as_served(use_case, rows)), dtype=np.float64)


def _check_rows(use_case: UseCase, turn: TrainingRows, now: datetime) -> None:
    if turn.gate.num_rows == 0:
        return
    newest = pc.max(turn.gate["event_time"]).cast(pa.int64()).as_py()
    if newest + use_case.maturity > micros(now):
        mature = from_micros(newest + use_case.maturity)
        raise DataError(f"a gate row's labels are mature at {mature.isoformat()}, after now, {now.isoformat()}")
    trained = [turn.train["row_id"].to_numpy()] + (
        [turn.replay["row_id"].to_numpy()] if turn.replay is not None else []
    )
    seen = np.intersect1d(np.concatenate(trained), turn.gate["row_id"].to_numpy())
    if len(seen):
        raise DataError(f"{len(seen)} gate rows were trained on, such as row_id {seen[0]}: the gate would judge memory")


# measuring ----------------------------------------------------------------------------------------------------------


def smoke_failure(use_case: UseCase, scorer: Scorer, rows: pa.Table) -> str | None:
    """Ask the packed model for one row and for the same with every feature null; what is wrong with its answers."""
    if rows.num_rows == 0:
        return "there is no row to ask the packed model for"
    row = rows.slice(0, 1)
    blank = row
    for column in use_case.feature_columns():
        place = blank.column_names.index(column)
        blank = blank.set_column(place, column, pa.nulls(1, blank.schema.field(place).type))
    num_classes = len(classes_of(use_case, scorer))
    shape = (1, num_classes) if num_classes else (1,)
    for what, asked in (("a row", row), ("a row of nulls", blank)):
        try:
            answer = answers(use_case, scorer, asked)
        except Exception as error:  # whatever a model can raise is a reason of the verdict
            return f"asked for {what}, the packed model raised {type(error).__name__}: {error}"
        if answer.shape != shape:
            return f"asked for {what}, the packed model answered the shape {answer.shape}, not {shape}"
        if not np.isfinite(answer).all():
            return f"asked for {what}, the packed model answered a number that isn't finite"
    return None


def classes_of(use_case: UseCase, scorer: Scorer) -> tuple[str, ...]:
    """The classes of the judged objective's model; none where its label is no category."""
    if use_case.label(metrics.label_of(use_case)).type != "category":
        return ()
    return tuple(scorer.bundles[use_case.objectives[0].name].classes)


def packed_bytes(release: Release) -> int:
    """Bytes of the release's bundles in storage; without the record of seconds beside each, which isn't the model's."""
    files = [file for ref in release.bundles for file in (storage.list_files(ref.uri) or [ref.uri])]
    return sum(storage.size(file) for file in files if not file.endswith(f"/{TIMING}"))


def _scored(use_case: UseCase, scorer: Scorer, rows: pa.Table) -> Scored:
    rows = as_served(use_case, rows)
    started = time.perf_counter()
    parts = scorer.scores(rows)
    scores = np.asarray(scorer.combine(parts), dtype=np.float64)
    elapsed = time.perf_counter() - started
    known = metrics.sample_of(use_case, rows, scores, classes=classes_of(use_case, scorer))
    each = _each_objective(use_case, scorer, rows, parts) if len(use_case.objectives) > 1 else {}
    first = each.get(use_case.objectives[0].name, known)
    return Scored(known, first, _by_objective(use_case, each), 1000 * elapsed / max(1, rows.num_rows))


def _each_objective(
    use_case: UseCase, scorer: Scorer, rows: pa.Table, scores: Mapping[str, NDArray[Any]]
) -> dict[str, Sample]:
    """Each model's scores with its own label."""
    found = {}
    for objective in use_case.objectives:
        category = use_case.label(objective.label).type == "category"
        classes = tuple(scorer.bundles[objective.name].classes) if category else ()
        labels = rows[f"label:{objective.label}"]
        found[objective.name] = metrics.sample(scores[objective.name], labels, classes=classes)
    return found


def _by_objective(use_case: UseCase, each: dict[str, Sample]) -> dict[str, float | None]:
    """Each model by the figures of its label's type: {"order:auc": 0.71, …}."""
    framings = {"binary": "binary", "number": "regression", "category": "multiclass"}
    return {
        f"{objective.name}:{name}": _figure(use_case, name, each[objective.name])
        for objective in use_case.objectives
        if objective.name in each
        for name in METRICS[framings[use_case.label(objective.label).type]]
    }


def _figure(use_case: UseCase, name: str, known: Sample) -> float | None:
    return metrics.figure(name, known, k=use_case.evaluation.k, threshold=use_case.evaluation.threshold)


def _difference(use_case: UseCase, name: str, ours: Sample, theirs: Sample, rng: np.random.Generator) -> Any:
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
    rows: pa.Table,
    ours: Scored,
    theirs: Scored | None,
    fitted: bool,
    rng: np.random.Generator,
) -> tuple[BaselineResult, ...]:
    if rows.num_rows == 0:
        return ()
    value = _figure(use_case, name, ours.sample)
    champion = _figure(use_case, name, theirs.sample) if theirs else None
    found = []
    for baseline in baselines.baselines(
        use_case, train, as_served(use_case, rows), metric=name, fitted=fitted, rng=rng
    ):
        reached = None
        if baseline.scores is not None:
            known = metrics.sample_of(use_case, rows, baseline.scores, classes=baseline.classes)
            reached = _figure(use_case, name, known)
        ahead, champion_ahead = _ahead(name, value, reached), _ahead(name, champion, reached)
        found.append(BaselineResult(baseline.name, reached, ahead, champion_ahead, baseline.note))
    return tuple(found)


def _ahead(name: str, value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else metrics.sign(name) * (value - other)


# the report ---------------------------------------------------------------------------------------------------------


def _report(
    use_case: UseCase,
    challenger: Scorer,
    champion: Scorer | None,
    turn: TrainingRows,
    measured: Measured,
    ours: Scored | None,
    theirs: Scored | None,
) -> EvaluationReport:
    unknown = {name: None for name in METRICS[use_case.framing]}
    return EvaluationReport(
        use_case=use_case.name,
        challenger=challenger.release.id,
        champion=champion.release.id if champion else None,
        rows=measured.rows,
        window=turn.gate_window,
        metric=use_case.evaluation.metric,
        gate_metric=use_case.gate.metric,
        metrics={**metrics.figures(use_case, ours.sample), **ours.by_objective} if ours else unknown,
        champion_metrics={**metrics.figures(use_case, theirs.sample), **theirs.by_objective} if theirs else {},
        baselines={baseline.name: baseline.value for baseline in measured.baselines},
        slices=tuple(result.score() for result in measured.slices),
        calibration=_calibration(ours.first) if ours else (),
        roc=_roc(use_case, ours.first) if ours else (),
        behaviour=measured.behaviour,
        model_bytes=measured.model_bytes,
        milliseconds_per_row=ours.milliseconds if ours else 0.0,
        verdict=judge(use_case.gate, measured),
    )


def _calibration(known: Sample) -> tuple[tuple[float, float, int], ...]:
    pair = metrics.calibrated(known)
    return calibration.reliability(*pair) if pair else ()


def _roc(use_case: UseCase, known: Sample) -> tuple[tuple[float, float, float], ...]:
    """At most ROC_POINTS points of the curve; the first one's threshold is the highest score."""
    from sklearn.metrics import roc_curve

    binary = use_case.label(metrics.label_of(use_case)).type == "binary"
    if not binary or len(np.unique(known.labels)) < 2:
        return ()
    wrong, right, threshold = roc_curve(known.labels > 0, known.scores)
    keep = np.unique(np.linspace(0, len(wrong) - 1, min(ROC_POINTS, len(wrong))).astype(int))
    threshold[0] = known.scores.max()
    return tuple((float(wrong[i]), float(right[i]), float(threshold[i])) for i in keep)
