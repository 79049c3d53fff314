"""The diagnosis of a window, before anything acts on it. Broken data comes first: no model may train on it.

| word            | when                                                                                                   |
|-----------------|--------------------------------------------------------------------------------------------------------|
| broken_data     | `quality` finds a fault                                                                                |
| label_shift     | the base rate moved, P(score or input | label) didn't: the mix of labels explains the moves of the inputs |
| covariate_shift | inputs moved                                                                                           |
| concept_shift   | inputs didn't move, but the loss or the labels at equal scores did; needs matured labels               |
| unknown         | none of these                                                                                          |

Each test is on counts (`label_shift`) with a known rate of false alarms: one in a thousand if nothing happened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from evermodel.monitoring import label_shift, statistics
from evermodel.monitoring.column_counts import column_counts, fits
from evermodel.monitoring.drift import SIGNIFICANCE, Reference
from evermodel.monitoring.label_shift import Comparison, LabelReference, Predictions
from evermodel.monitoring.performance import Performance, best_classes, score_of
from evermodel.records import Diagnosis, DriftScore
from evermodel.use_case import UseCase

SURE = 3.0  # the metric must fall by so many standard errors to count as a change of the concept
BASE_CHANGE = 0.2  # of the base rate, relative: a smaller move is no label shift


@dataclass(frozen=True)
class WindowFindings:
    """What was measured on a window: drift of columns and scores, data faults, the metric, labels against the reference."""

    drift: tuple[DriftScore, ...]
    faults: Mapping[str, float]
    performance: Performance
    comparisons: tuple[Comparison, ...]


def diagnose(
    use_case: UseCase, served: pa.Table, reference: Reference, found: WindowFindings
) -> tuple[Diagnosis, dict[str, Any]]:
    """The diagnosis, and the numbers that it depends on, by name."""
    if found.faults:
        return "broken_data", {"quality": dict(found.faults)}
    moved = moved_columns(found.drift)
    performance, comparisons = found.performance, found.comparisons
    evidence: dict[str, Any] = {}
    if moved:
        evidence["columns"] = moved
    if comparisons:
        evidence["labels"] = {item.objective: item.evidence() for item in comparisons}
    if performance.value is not None:
        evidence["performance"] = performance.evidence()
    shifted = next((item for item in comparisons if base_moved(item)), None)
    if inputs_moved(use_case, reference, found.drift):
        if shifted is not None and _mix_explains(served, reference, moved, shifted, use_case):
            return "label_shift", evidence
        return "covariate_shift", evidence
    if shifted is not None and shifted.conditional_p >= 0.01:
        return "label_shift", evidence
    if any(item.calibration_p < SIGNIFICANCE for item in comparisons):
        return "concept_shift", evidence
    if performance.dropped and (performance.fall or 0.0) >= SURE and comparisons and not moved:
        return "concept_shift", evidence
    if moved:
        return "covariate_shift", evidence
    return "unknown", evidence


def compare_labels(use_case: UseCase, served: pa.Table, reference: Reference) -> tuple[Comparison, ...]:
    """Each objective's known labels against the reference; objectives with too few of them are left out."""
    found: list[Comparison] = []
    for objective in use_case.objectives:
        before = reference.label(objective.name)
        scores: Predictions | None = score_of(use_case, served, objective.name)
        if before is not None and before.kind == "category":
            scores = best_classes(served)
        elif scores is None and len(use_case.objectives) == 1:
            scores = score_of(use_case, served)
        name = f"label:{objective.label}"
        if before is None or scores is None or name not in served.column_names:
            continue
        result = label_shift.compare(before, served[name], scores, minimum_rows=use_case.monitoring.minimum_rows)
        if result is not None:
            found.append(result)
    return tuple(found)


def moved_columns(drift: Sequence[DriftScore]) -> dict[str, float]:
    """The scores of the feature columns that drifted."""
    return {
        item.column: item.score
        for item in drift
        if item.drifted and item.score is not None and not is_prediction(item.column)
    }


def is_prediction(column: str) -> bool:
    return column == "score" or column.startswith(("score:", "class:"))


def inputs_moved(use_case: UseCase, reference: Reference, drift: Sequence[DriftScore]) -> bool:
    """Whether at least the use case's share of the scored columns drifted, or a constant one starts to vary."""
    scored = [item for item in drift if item.drifted is not None and not is_prediction(item.column)]
    moved = [item for item in scored if item.drifted]
    constant = {column.column for column in reference.columns if column.constant}
    if any(item.column in constant for item in moved):
        return True
    return bool(moved) and len(moved) >= use_case.monitoring.drift.share * len(scored)


def base_moved(item: Comparison) -> bool:
    """Whether the label's shares differ by more than chance, and by at least BASE_CHANGE."""
    if item.base_p >= SIGNIFICANCE:
        return False
    if item.base is None or item.reference_base is None or item.reference_base <= 0:
        return True
    return abs(item.base / item.reference_base - 1) >= BASE_CHANGE


def _mix_explains(
    served: pa.Table, reference: Reference, moved: Mapping[str, float], shifted: Comparison, use_case: UseCase
) -> bool:
    """Whether the reference at each label, in the window's mix of labels, explains each moved column."""
    before = reference.label(shifted.objective)
    if before is None or not moved or shifted.conditional_p < 0.01:
        return False
    return all(_mix_explains_column(served, reference, before, name, shifted, use_case) for name in moved)


def _mix_explains_column(
    served: pa.Table, reference: Reference, before: LabelReference, name: str, shifted: Comparison, use_case: UseCase
) -> bool:
    column = reference.column(name)
    if column.constant or name not in before.columns or not fits(column, served[name]):
        return False
    joint = np.asarray(before.columns[name], dtype=np.float64)[:, : len(column.counts)]
    at_label = statistics.shares(joint)
    mix = shifted.label_counts / shifted.label_counts.sum()
    expected = np.nansum(np.nan_to_num(at_label) * mix[:, None], axis=0) * joint.sum()
    now = column_counts(column, served[name])
    chance = float(statistics.p_value(*statistics.homogeneity(expected, now)))
    return chance >= 0.01 or float(statistics.jensen_shannon(expected, now)) < use_case.monitoring.drift.threshold
