"""A small binary use case, rows with a known truth, and a packed model that is a formula."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evermodel.clock import micros
from evermodel.features.training_set import TrainingRows
from evermodel.records import BundleRef, Release, Window
from evermodel.scores import ScoreKind, Scores
from evermodel.use_case import UseCase
from tests.support.training_rows import make_training_rows
from tests.support.use_cases import make_use_case

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = START + timedelta(days=60)
Formula = Callable[[pa.Table], NDArray[np.float64]]


def case(**changes: object) -> UseCase:
    """The small use case, with whole sections replaced."""
    small = make_use_case(
        name="small",
        entities={"shop": "shop"},
        fields={"shop": "string", "x": {}, "z": {}, "sold": "bool"},
        source={"event_time": {"row_number": {"start": "2026-01-01T00:00:00Z", "step": "1h"}}},
        labels={"sold": {"delay": "1d"}},
        features={"x": {}, "z": {}},
        objectives={"sale": "sold"},
        evaluation={"metric": "accuracy", "baselines": ["random", "majority", "boosting"]},
        gate={"margin": 0.05, "minimum_rows": 30},
        monitoring={"window": "7d"},
    )
    return small.model_copy(update=changes)


def table(num_rows: int, *, seed: int = 0, first: int = 0, share_x: float = 1.0) -> pa.Table:
    """Rows with P(sold) = σ(3 x); z has no effect. `share_x` < 1 weakens x."""
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=num_rows), rng.normal(size=num_rows)
    sold = (rng.random(num_rows) < 1 / (1 + np.exp(-3 * share_x * x))).astype(float)
    times = micros(START) + (first + np.arange(num_rows)) * 3_600_000_000
    return pa.table(
        {
            "row_id": pa.array(first + np.arange(num_rows), pa.int64()),
            "event_time": pa.array(times, pa.timestamp("us", tz="UTC")),
            "shop": pa.array(
                [("north", "south", "tiny")[min(i % 10 // 5 + (i % 50 == 0) * 2, 2)] for i in range(num_rows)]
            ),
            "x": pa.array(x),
            "z": pa.array(z),
            "label:sold": pa.array(sold),
        }
    )


def training_rows(train: pa.Table, gate: pa.Table, *, rehearsal: pa.Table | None = None) -> TrainingRows:
    return make_training_rows(train, gate, window=Window(start=START, end=NOW), rehearsal=rehearsal)


@dataclass(frozen=True)
class FormulaRelease:
    """A servable release whose models are formulas; a bundle is a file of some bytes."""

    release: Release
    formulas: Mapping[str, Formula]
    kinds: Mapping[str, ScoreKind]
    classes: tuple[str, ...]

    @property
    def bundle_digests(self) -> dict[str, str]:
        return {bundle.objective: bundle.digest for bundle in self.release.bundles}

    def scores(self, rows: pa.Table) -> dict[str, Scores]:
        return {
            name: Scores(self.kinds.get(name, "binary"), formula(rows), self.classes)
            for name, formula in self.formulas.items()
        }


def release(
    folder: Path,
    formula: Formula | Mapping[str, Formula],
    *,
    name: str = "model",
    num_bytes: int = 1000,
    weights: dict[str, float] | None = None,
    kinds: Mapping[str, ScoreKind] | None = None,
    classes: Sequence[str] = (),
) -> FormulaRelease:
    """Pack a formula (or one for each objective) below `folder`, one file for each objective. Classes: of a category."""
    formulas = formula if isinstance(formula, Mapping) else {"sale": formula}
    refs = []
    for objective in formulas:
        path = folder / name / objective / "weights"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"w" * num_bytes)
        refs.append(BundleRef(objective=objective, uri=str(path.parent), digest=name))
    record = Release(
        use_case="small",
        bundles=tuple(refs),
        weights=weights or dict.fromkeys(formulas, 1.0),
        cursor=START,
        created=START,
        home=str(folder),
    )
    kinds = kinds or (dict.fromkeys(formulas, "category") if classes else {})
    return FormulaRelease(record, formulas, kinds, tuple(classes))


def column(rows: pa.Table, name: str) -> NDArray[np.float64]:
    """float64[n]; a null counts as 0, as in a model that imputes."""
    return np.nan_to_num(rows[name].cast(pa.float64()).to_numpy())


def by_x(rows: pa.Table) -> NDArray[np.float64]:
    """The truth of `table`."""
    return 1 / (1 + np.exp(-3 * column(rows, "x")))
