"""Counts are exact, a reference survives JSON, and a column that can't be scored is unknown."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from evermodel import use_case
from evermodel.monitoring.binning import bin_counts, bin_edges, longest_run
from evermodel.monitoring.column_counts import column_reference
from evermodel.monitoring.drift import Reference, drift_scores, fit_reference, watched_columns
from evermodel.records import DriftScore
from evermodel.use_case import UseCase
from tests.support import ROOT
from tests.support.scores import binary
from tests.unit.monitoring.synthetic_drift import Distribution, Shop, with_column


def score(before: object, now: object, *, method: str = "jensen_shannon", **options: object) -> DriftScore:
    reference = column_reference(
        "x", pa.chunked_array([pa.array(before)]), bins=20, fine=method in ("ks", "wasserstein")
    )
    table = pa.table({"x": pa.array(now)})
    settings = {"threshold": 0.1, "minimum_rows": 100} | options
    return drift_scores([reference], table, method=method, **settings)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [100, 4096, 70_001])
def test_bin_counts_are_histogram_counts_on_both_ways(rows: int) -> None:
    """Long columns are counted by comparison, short ones by search; missing and infinite values by neither."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=rows).round(2)
    values[::7], values[3], values[5] = np.nan, np.inf, -np.inf
    edges = bin_edges(values[np.isfinite(values)], bins=20)
    kept = values[np.isfinite(values)]
    expected = [np.count_nonzero(kept < edges[0])]
    expected += [np.count_nonzero((kept >= a) & (kept < b)) for a, b in pairwise(edges)]
    expected.append(np.count_nonzero(kept >= edges[-1]))
    assert bin_counts(values, edges).tolist() == expected


def test_a_discrete_column_and_one_of_many_zeros_keep_their_values_apart() -> None:
    assert column_reference("x", pa.array([1, 1, 2, 3]), bins=20).counts == (0, 2, 1, 1, 0)
    zeros = np.concatenate([np.zeros(900), np.linspace(1, 2, 100)])
    reference = column_reference("x", pa.array(zeros), bins=5)
    assert 900 in reference.counts


def test_longest_run() -> None:
    assert [longest_run(np.array(values, dtype=float)) for values in ([], [1], [1, 2, 2, 2, 1, 1])] == [0, 1, 3]


def test_a_reference_survives_json(shop: Shop) -> None:
    assert Reference.from_json(shop.reference.to_json()) == shop.reference


def test_calendar_features_are_not_compared_and_hashed_ones_are_categories(case: UseCase, shop: Shop) -> None:
    assert "hour" not in watched_columns(case)
    assert shop.reference.column("town").categories == ("rome", "oslo", "bonn")


@pytest.mark.parametrize("method", ["psi", "jensen_shannon", "ks", "chi2", "hellinger", "wasserstein"])
def test_every_method_separates_moved_from_unmoved_columns(method: str) -> None:
    rng = np.random.default_rng(3)
    before = rng.normal(size=20_000)
    threshold = 0.001 if method in ("ks", "chi2") else 0.15
    assert score(before, rng.normal(size=2000), method=method, threshold=threshold).drifted is False
    assert score(before, rng.normal(0.8, 1, size=2000), method=method, threshold=threshold).drifted is True


def test_scores_over_columns_at_once_are_those_of_each_alone(shop: Shop) -> None:
    rows = shop.serve(Distribution(shift=0.5))
    for method in ("psi", "jensen_shannon", "hellinger", "wasserstein", "ks", "chi2"):
        options = {"method": method, "threshold": 0.1, "minimum_rows": 100}
        together = drift_scores(shop.reference.columns, rows, **options)  # type: ignore[arg-type]
        alone = [drift_scores([column], rows, **options)[0] for column in shop.reference.columns]  # type: ignore[arg-type]
        for first, second in zip(together, alone, strict=True):
            assert first.score == pytest.approx(second.score, rel=1e-12)
            assert (first.method, first.drifted) == (second.method, second.drifted)


def test_a_constant_that_starts_to_vary_has_moved() -> None:
    now = np.where(np.arange(300) < 20, 1.0, 0.0)
    found = score(np.zeros(500), now)
    assert (found.score, found.drifted) == (1.0, True)
    assert score(np.zeros(500), np.zeros(300)).drifted is False
    assert score(np.zeros(500), now, method="ks").score == 0.0  # a p: the lowest possible
    assert score(["a"] * 500, ["a", "b", "c"] * 100).drifted is True
    assert score(np.full(500, np.nan), np.arange(300.0)).drifted is True  # nothing, and now something


@pytest.mark.parametrize(
    "now",
    [np.full(300, np.nan), np.arange(99.0), np.array([], dtype=float), ["a"] * 300],
    ids=["nan", "few", "none", "text"],
)
def test_a_column_that_cannot_be_scored_is_unknown(now: object) -> None:
    found = score(np.arange(500.0), now)
    assert found.score is None and found.drifted is None


def test_a_reference_of_too_few_rows_or_no_column_is_unknown() -> None:
    assert score(np.arange(50.0), np.arange(300.0)).drifted is None
    reference = column_reference("y", pa.array(np.arange(500.0)), bins=20)
    missing = drift_scores([reference], pa.table({"x": [1.0]}), method="psi", threshold=0.1, minimum_rows=1)
    assert missing[0].score is None


def test_a_small_window_of_the_same_distribution_seldom_drifts() -> None:
    """336 rows over 20 bins are 0.08 apart by chance alone: the threshold of 0.1 needs the test beside it."""
    rng = np.random.default_rng(5)
    before = rng.normal(size=5000)
    found = [score(before, rng.normal(size=336)) for _ in range(300)]
    assert np.mean([item.score > 0.08 for item in found if item.score is not None]) > 0.3
    assert sum(bool(item.drifted) for item in found) <= 3


def test_labels_are_taken_from_rows_that_the_model_was_not_trained_on(case: UseCase, shop: Shop) -> None:
    train, gate = Distribution().rows(500, seed=1), Distribution(positives=0.9).rows(500, seed=2)
    scores = {"buy": binary(train["score"].to_numpy())}
    judged = (gate, {"buy": binary(gate["score"].to_numpy())})
    options = {"performance": 0.8, "window": shop.window}
    assert fit_reference(case, train, scores, **options).labels[0].base == pytest.approx(0.4, abs=0.1)  # type: ignore[arg-type]
    assert fit_reference(case, train, scores, gate=judged, **options).labels[0].base == pytest.approx(0.9)  # type: ignore[arg-type]


def test_the_reference_of_an_empty_table_makes_every_drift_unknown(case: UseCase, shop: Shop) -> None:
    empty = Distribution().rows(200, seed=1).slice(0, 0)
    reference = fit_reference(case, empty, {"buy": binary([])}, performance=None, window=shop.window)
    assert all(item.drifted is None for item in Shop(case, reference).monitor(shop.serve()).drift)


def test_a_column_put_in_place_of_another_type_is_counted_in_its_own_kind() -> None:
    table = with_column(Distribution().rows(200, seed=1), "town", pa.array(["rome", None] * 100))
    reference = column_reference("town", table["town"], bins=20)
    assert reference.null_share == 0.5 and reference.counts == (100, 0, 100)


def test_a_column_that_serving_fixes_is_not_compared() -> None:
    """A position varies in training and is 1 in every answer: it would look like a column that became constant."""
    restaurants = use_case.load(ROOT / "use_cases" / "restaurants.yaml")
    assert "position" in restaurants.feature_columns()
    assert "position" not in watched_columns(restaurants)
