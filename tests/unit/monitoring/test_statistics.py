"""Statistics on counts give published results, and agree with scipy on the values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from scipy.spatial import distance

from evermodel.monitoring import statistics
from evermodel.monitoring.binning import category_counts
from evermodel.monitoring.column_counts import column_reference


@pytest.fixture(scope="module")
def vectors(shared_data: Path) -> dict[str, Any]:
    return dict(json.loads((shared_data / "drift" / "reference_vectors.json").read_text()))


def test_chi2_and_hellinger_of_counts(vectors: dict[str, Any]) -> None:
    given = vectors["chi2_hellinger"]
    counts = np.array(given["ref_counts"]), np.array(given["cur_counts"])
    assert statistics.chi2(*counts) == pytest.approx(given["chi2_p"], abs=given["tol"])
    assert statistics.hellinger(*counts) == pytest.approx(given["hellinger"], abs=given["tol"])


def test_a_missing_category_is_a_category(vectors: dict[str, Any]) -> None:
    given = vectors["nan_category"]

    def counts(table: dict[str, int]) -> Any:
        values = [None if name == "nan" else name for name, count in table.items() for _ in range(count)]
        return category_counts(pa.array(values, pa.string()), ("a", "b"))

    before, now = counts(given["ref"]), counts(given["cur"])
    assert before.tolist() == [10, 10, 0, 10]
    assert statistics.chi2(before, now) == given["chi2_p"]
    assert statistics.hellinger(before, now) == pytest.approx(given["hellinger"], abs=1e-7)


def test_distances_on_counts_are_scipys() -> None:
    before, now = np.array([[5, 10, 20, 0], [1, 1, 1, 1]]), np.array([[8, 8, 8, 3], [2, 2, 2, 2]])
    expected = [distance.jensenshannon(p, q) for p, q in zip(before, now, strict=True)]
    assert statistics.jensen_shannon(before, now) == pytest.approx(expected)
    assert statistics.psi(before, now)[1] == 0
    p, q = before[0] / 35, now[0] / 27
    p = np.where(p == 0, 1e-4, p)  # Evidently's rule for an empty bin
    assert statistics.psi(before, now)[0] == pytest.approx(((p - q) * np.log(p / q)).sum())


def test_padding_with_empty_bins_changes_nothing() -> None:
    before, now = np.array([30, 50, 20]), np.array([20, 60, 20])
    for name, score in statistics.ON_COUNTS.items():
        padded = score(np.append(before, [0, 0]), np.append(now, [0, 0]))
        assert padded == pytest.approx(score(before, now)), name
    assert statistics.homogeneity(np.append(before, 0), np.append(now, 0)) == statistics.homogeneity(before, now)


def test_homogeneity_is_the_contingency_table_test() -> None:
    before, now = np.array([300, 500, 200]), np.array([20, 60, 20])
    statistic, freedom = statistics.homogeneity(before, now)
    expected = stats.chi2_contingency(np.stack([before, now]), correction=False)
    assert statistic == pytest.approx(expected.statistic) and freedom == expected.dof
    assert statistics.p_value(statistic, freedom) == pytest.approx(expected.pvalue)


def test_homogeneity_pools_rare_bins() -> None:
    """One row in a bin that is empty in a reference of 10,000 rows is no evidence: unpooled, its p would be 1e-7."""
    before, now = np.array([5000, 5000, 0, 0]), np.array([150, 150, 1, 0])
    assert statistics.p_value(*statistics.homogeneity(before, now)) > 0.5


def test_homogeneity_has_the_false_alarms_of_its_level() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([0.5, 0.3, 0.1, 0.05, 0.03, 0.01, 0.005, 0.005])
    before, now = rng.multinomial(5000, shares, size=4000), rng.multinomial(336, shares, size=4000)
    p = statistics.p_value(*statistics.homogeneity(before, now))
    assert 0.03 < (p < 0.05).mean() < 0.07


def test_no_rows_give_nan() -> None:
    for name, score in statistics.ON_COUNTS.items():
        assert np.isnan(score(np.array([3, 4]), np.array([0, 0]))), name


@pytest.mark.parametrize("shift", [0.0, 0.1, 1.0, 20.0])
def test_binned_ks_and_wasserstein_are_near_the_exact_ones(shift: float) -> None:
    rng = np.random.default_rng(1)
    before, now = rng.normal(size=20_000), rng.normal(shift, 1.2, size=5_000)
    reference = column_reference("x", pa.array(before), bins=20, fine=True)
    edges = np.array(reference.edges)
    counts = np.array(reference.counts), np.histogram(now, np.concatenate([[-np.inf], edges, [np.inf]]))[0]
    found = statistics.wasserstein(
        *(part[None] for part in counts),
        edges=edges[None],
        under=np.maximum(edges[0] - now, 0).mean(keepdims=True),
        over=np.maximum(now - edges[-1], 0).mean(keepdims=True),
        scale=np.array([before.std()]),
    )
    assert found[0] == pytest.approx(stats.wasserstein_distance(before, now) / before.std(), rel=0.05, abs=0.01)
    exact = stats.ks_2samp(before, now)
    assert statistics.ks(*counts) >= exact.pvalue * 0.9 - 1e-12
    if exact.pvalue < 1e-6:
        assert statistics.ks(*counts) < 1e-4
