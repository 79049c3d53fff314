"""A training round's reference for monitoring."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from evermodel.evaluation.evaluate import evaluate
from evermodel.retraining.rounds import make_reference
from tests.unit.evaluation import small


def test_the_monitoring_reference_scores_rows_as_served(tmp_path: Path) -> None:
    """`z` differs in every row, and serving fixes it at 1: the reference has the scores that serving would give."""
    x, z = small.case().features
    case = small.case(features=(x, z.model_copy(update={"serve_as": 1.0})))
    rows = small.training_rows(small.table(500, seed=1), small.table(200, seed=2, first=500))
    values: list[set[float]] = []

    def by_z(table: pa.Table) -> np.ndarray:
        values.append(set(small.column(table, "z").tolist()))
        return np.clip(small.column(table, "z") / 2, 0, 1)

    challenger = small.release(tmp_path, by_z)
    report = evaluate(case, challenger, None, rows, now=small.NOW, fitted_baselines=False)
    values.clear()
    reference = make_reference(case, challenger, rows, report)
    assert values == [{1.0}, {1.0}]
    assert reference.column("score:sale").mean == 0.5
