"""Performance uses matured rows only; the estimate is right while scores are probabilities of the label."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from evermodel.monitoring.performance import business_figures, expected_metric, measure_performance
from tests.support.scores import binary, metric
from tests.unit.monitoring.synthetic_drift import Distribution, Shop, with_column


def with_known_labels(rows: pa.Table, known: np.ndarray) -> pa.Table:
    return with_column(rows, "label:bought", pa.array(rows["label:bought"].to_numpy(), mask=~known))


def test_only_matured_rows_count(shop: Shop) -> None:
    """Labels that are present before their delay is over (a leak of the log) don't count."""
    rows, half = shop.serve(), shop.window.start + (shop.window.end - shop.window.start) / 2
    found = measure_performance(shop.case, rows, shop.reference, now=half)
    assert found.rows == 167  # of 336 in a week, those of the first half but its last hour
    scores, labels = rows["score"].to_numpy()[:167], rows["label:bought"].to_numpy()[:167]
    assert found.value == pytest.approx(((scores >= 0.5) == (labels > 0)).mean())


def test_unknown_labels_are_left_out_and_too_few_are_unknown(shop: Shop) -> None:
    rows = with_known_labels(shop.serve(), np.arange(336) < 99)
    found = measure_performance(
        shop.case, rows, shop.reference, now=shop.window.end + (shop.window.end - shop.window.start)
    )
    assert (found.rows, found.value, found.dropped) == (99, None, None)


@pytest.mark.parametrize("name", ["accuracy", "auc", "average_precision", "log_loss", "brier", "f1"])
def test_the_estimate_is_the_mean_metric_over_drawn_labels(name: str) -> None:
    rng = np.random.default_rng(0)
    chance = rng.beta(2, 3, size=3000)
    scores = chance.round(2)
    drawn = [metric(name, binary(scores), (rng.random(3000) < chance).astype(float)) for _ in range(40)]
    assert expected_metric(name, scores, chance, 0.5) == pytest.approx(np.mean(drawn), abs=0.003)  # type: ignore[arg-type]
    assert expected_metric("ece", scores, chance, 0.5) is None


def test_the_estimate_follows_a_covariate_shift(shop: Shop) -> None:
    """Rows far from the boundary are easier: accuracy rises, and so does the estimate, which uses no label."""
    reports = [
        shop.monitor(shop.serve(distribution, count=5000)) for distribution in (Distribution(), Distribution(shift=1.5))
    ]
    for report in reports:
        assert report.estimate == pytest.approx(report.performance, abs=0.02)
    assert reports[1].estimate > reports[0].estimate + 0.05  # type: ignore[operator]


def test_the_standard_error_of_correlated_errors_is_larger(shop: Shop) -> None:
    rows, now = shop.serve(count=1000), shop.window.end + (shop.window.end - shop.window.start)
    scores = rows["score"].to_numpy() >= 0.5
    together = np.where(np.arange(1000) // 100 % 2 == 0, scores, ~scores).astype(float)  # 100 right, 100 wrong, …
    apart = np.where(np.arange(1000) % 2 == 0, scores, ~scores).astype(float)
    errors = [
        measure_performance(shop.case, with_column(rows, "label:bought", labels), shop.reference, now=now).error
        for labels in (together, apart)
    ]
    assert errors[0] > 5 * errors[1]  # type: ignore[operator]
    assert errors[1] == pytest.approx(0.5 / np.sqrt(1000), rel=0.01)


def test_business_figures_are_of_matured_rows(shop: Shop) -> None:
    rows = with_known_labels(shop.serve(), np.arange(336) % 2 == 0)
    keep = np.arange(336) % 2 == 0
    labels, scores = rows["label:bought"].to_numpy(zero_copy_only=False)[keep] > 0, rows["score"].to_numpy()[keep]
    found = business_figures(shop.case, rows, now=shop.window.end + (shop.window.end - shop.window.start))
    assert found["sales"] == pytest.approx(2 * rows["weight"].to_numpy()[keep][labels].sum())
    assert found["wasted"] == -((scores >= 0.5) & ~labels).sum()
    assert business_figures(shop.case, rows, now=shop.window.start) == {"sales": 0.0, "wasted": 0.0}
