"""Each injected fault gets its diagnosis, on windows of 336 rows; without evidence the diagnosis is unknown."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from tests.unit.monitoring.synthetic_drift import Distribution, Shop, with_column

SEEDS = range(1, 9)


def numbers(rows: pa.Table, column: str) -> np.ndarray:
    return np.array(rows[column].to_numpy())


def with_nulls(rows: pa.Table) -> pa.Table:
    return with_column(rows, "speed", pa.array(numbers(rows, "speed"), mask=np.arange(rows.num_rows) % 3 == 0))


def in_pounds(rows: pa.Table) -> pa.Table:
    return with_column(rows, "weight", numbers(rows, "weight") * 100)


def in_kilo(rows: pa.Table) -> pa.Table:
    return with_column(rows, "weight", numbers(rows, "weight") / 1000)


def constant(rows: pa.Table) -> pa.Table:
    return with_column(rows, "height", np.full(rows.num_rows, 1.7))


def stale(rows: pa.Table) -> pa.Table:
    values = numbers(rows, "height")
    values[100:] = values[100]
    return with_column(rows, "height", values)


def duplicated(rows: pa.Table) -> pa.Table:
    """A fifth of the events occurs twice, with new row ids."""
    again = rows.slice(0, rows.num_rows // 5)
    again = with_column(again, "row_id", numbers(again, "row_id") + 500_000)
    return pa.concat_tables([rows, again]).sort_by("event_time")


def out_of_range(rows: pa.Table) -> pa.Table:
    values = numbers(rows, "age")
    values[::10] = -1
    return with_column(rows, "age", values)


def without_column(rows: pa.Table) -> pa.Table:
    return rows.drop_columns(["speed"])


def as_text(rows: pa.Table) -> pa.Table:
    return with_column(rows, "speed", [str(value) for value in numbers(rows, "speed")])


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        (with_nulls, "null:speed"),
        (in_pounds, "unit:weight"),
        (in_kilo, "unit:weight"),
        (constant, "constant:height"),
        (stale, "stale:height"),
        (duplicated, "duplicate"),
        (out_of_range, "range:age"),
        (without_column, "schema:speed"),
        (as_text, "schema:speed"),
    ],
)
def test_broken_data(shop: Shop, fault, finding: str) -> None:  # type: ignore[no-untyped-def]
    for seed in SEEDS:
        report = shop.monitor(fault(shop.serve(seed=seed)))
        assert {key for key in report.quality if not key.startswith("null_share")} == {finding}
        assert {alert.kind: alert.diagnosis for alert in report.alerts}["data_quality"] == "broken_data"
        assert {alert.diagnosis for alert in report.alerts} == {"broken_data"}  # so no model trains on it
        assert report.alerts[0].evidence["quality"][finding] == report.quality[finding]


def test_a_changed_unit_has_its_factor(shop: Shop) -> None:
    assert shop.monitor(in_pounds(shop.serve())).quality["unit:weight"] == 100
    assert shop.monitor(in_kilo(shop.serve())).quality["unit:weight"] == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("distribution", "diagnosis", "kind"),
    [
        (Distribution(shift=0.7), "covariate_shift", "feature_drift"),
        (Distribution(positives=0.68), "label_shift", "performance"),
        (Distribution(positives=0.15), "label_shift", "performance"),
        (Distribution(slope=-1.0), "concept_shift", "performance"),
        (Distribution(slope=0.2), "concept_shift", "performance"),
    ],
    ids=["covariate", "more positives", "fewer positives", "concept reversed", "concept weakened"],
)
def test_shifts(shop: Shop, distribution: Distribution, diagnosis: str, kind: str) -> None:
    found = [shop.diagnoses(shop.serve(distribution, seed=seed)) for seed in SEEDS]
    assert [windows.get(kind) for windows in found] == [diagnosis] * len(found)


def test_a_constant_that_starts_to_vary_is_a_covariate_shift(shop: Shop) -> None:
    columns = [
        column.model_copy(update={"edges": (0.0, 5e-324), "counts": (0, 4000, 0), "constant": True})
        if column.column == "height"
        else column
        for column in shop.reference.columns
    ]
    before = Shop(shop.case, shop.reference.model_copy(update={"columns": tuple(columns)}))
    alerts = {alert.kind: alert for alert in before.monitor(shop.serve()).alerts}
    assert alerts["feature_drift"].diagnosis == "covariate_shift"
    assert alerts["feature_drift"].evidence["columns"] == {"height": 1.0}


def test_windows_without_drift_seldom_alert(shop: Shop) -> None:
    """Of 200 windows, fewer than 10 % alert, none of them for quality or drift; a chance drop is no concept shift."""
    alerts: Counter[str] = Counter()
    diagnoses: Counter[str] = Counter()
    for seed in range(200):
        found = shop.diagnoses(shop.serve(seed=seed + 1000))
        alerts.update(found.keys())
        diagnoses.update(set(found.values()))
        alerts["any"] += bool(found)
    assert alerts["any"] < 20
    assert not alerts["data_quality"] and not alerts["feature_drift"] and not alerts["prediction_drift"]
    assert diagnoses["concept_shift"] + diagnoses["label_shift"] <= 1


@pytest.mark.parametrize(
    "distribution", [Distribution(), Distribution(shift=0.7), Distribution(slope=-1.0), Distribution(positives=0.68)]
)
def test_never_a_concept_or_label_shift_without_matured_labels(shop: Shop, distribution: Distribution) -> None:
    for seed in SEEDS:
        rows = with_column(shop.serve(distribution, seed=seed), "label:bought", pa.nulls(336, pa.float64()))
        report = shop.monitor(rows, now=shop.window.start + timedelta(minutes=1))
        assert report.performance is None and report.matured_rows == 0
        assert {alert.diagnosis for alert in report.alerts} <= {"covariate_shift", "unknown"}
        assert "performance" not in {alert.kind for alert in report.alerts}


def test_too_few_rows_are_unknown(shop: Shop) -> None:
    report = shop.monitor(shop.serve(Distribution(shift=3.0, slope=-1.0), count=60))
    assert report.alerts == () and report.performance is None and report.estimate is None
    assert all(item.drifted is None for item in report.drift)


def test_missing_labels_of_matured_rows_are_broken_data(shop: Shop) -> None:
    rows = shop.serve()
    labels = pa.array(numbers(rows, "label:bought"), mask=np.arange(336) % 2 == 0)
    report = shop.monitor(with_column(rows, "label:bought", labels))
    assert report.quality["late_label:bought"] == 0.5
    assert [alert.diagnosis for alert in report.alerts] == ["broken_data"]
