"""What happened, before anybody acts on it. Broken data first: no model is to be trained on it.

| word            | when                                                                                             |
|-----------------|--------------------------------------------------------------------------------------------------|
| broken_data     | any finding of `quality`                                                                         |
| label_shift     | the base rate moved, P(score or input | label) didn't: what moved of the inputs, the mix of labels explains |
| covariate_shift | inputs moved                                                                                     |
| concept_shift   | inputs didn't move, and the loss or the labels at equal scores did; needs matured labels         |
| unknown         | none of these can be told                                                                        |

Each test is on counts (`outcomes`), so its false alarms are known: one in a thousand where nothing happened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from evermodel.monitoring import label_shift, statistics
from evermodel.monitoring.column_counts import column_counts, fits
from evermodel.monitoring.drift import SIGNIFICANCE, Reference
from evermodel.monitoring.label_shift import Answers, Comparison, LabelReference
from evermodel.monitoring.performance import Performance, first_classes, score_of
from evermodel.records import Diagnosis, DriftScore
from evermodel.use_case import UseCase

SURE = 3.0  # standard errors that the metric has to fall by for it to be the concept and not chance
BASE_CHANGE = 0.2  # of the base rate, relative: a smaller move is no label shift


def diagnose(
    use_case: UseCase,
    served: pa.Table,
    reference: Reference,
    drift: Sequence[DriftScore],
    quality: Mapping[str, float],
    performance: Performance,
    comparisons: Sequence[Comparison] | None = None,
) -> tuple[Diagnosis, dict[str, Any]]:
    """The word and the numbers that it stands on, by name.

    drift: of the window's columns and scores; quality: the faults found (empty: none); comparisons: of the labels with
    the reference, made here where not given.
    """
    if quality:
        return "broken_data", {"quality": dict(quality)}
    moved = moved_columns(drift)
    if comparisons is None:
        comparisons = compare_labels(use_case, served, reference)
    evidence: dict[str, Any] = {}
    if moved:
        evidence["columns"] = moved
    if comparisons:
        evidence["labels"] = {item.objective: item.evidence() for item in comparisons}
    if performance.value is not None:
        evidence["performance"] = performance.evidence()
    inputs = inputs_moved(use_case, reference, drift)
    shifted = next((item for item in comparisons if base_moved(item)), None)
    if inputs:
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


def compare_labels(use_case: UseCase, served: pa.Table, reference: Reference) -> list[Comparison]:
    """Each objective's known labels against the reference; none where too few are known."""
    found: list[Comparison] = []
    for objective in use_case.objectives:
        before = reference.label(objective.name)
        scores: Answers | None = score_of(use_case, served, objective.name)
        if before is not None and before.kind == "category":
            scores = first_classes(served)
        elif scores is None and len(use_case.objectives) == 1:
            scores = score_of(use_case, served)
        name = f"label:{objective.label}"
        if before is None or scores is None or name not in served.column_names:
            continue
        result = label_shift.compare(before, served[name], scores, minimum_rows=use_case.monitoring.minimum_rows)
        if result is not None:
            found.append(result)
    return found


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
    """At least the use case's share of the columns that are known drifted, or a constant one starts to vary."""
    known = [item for item in drift if item.drifted is not None and not is_prediction(item.column)]
    moved = [item for item in known if item.drifted]
    constant = {column.column for column in reference.columns if column.constant}
    if any(item.column in constant for item in moved):
        return True
    return bool(moved) and len(moved) >= use_case.monitoring.drift.share * len(known)


def base_moved(item: Comparison) -> bool:
    """The label's shares differ by more than chance, and by enough to matter."""
    if item.base_p >= SIGNIFICANCE:
        return False
    if item.base is None or item.reference_base is None or item.reference_base <= 0:
        return True
    return abs(item.base / item.reference_base - 1) >= BASE_CHANGE


def _mix_explains(
    served: pa.Table, reference: Reference, moved: Mapping[str, float], shifted: Comparison, use_case: UseCase
) -> bool:
    """Whether each moved column is what the reference has at each label, in the window's mix of labels."""
    before = reference.label(shifted.objective)
    if before is None or not moved or shifted.conditional_p < 0.01:
        return False
    return all(_explained(served, reference, before, name, shifted, use_case) for name in moved)


def _explained(
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
