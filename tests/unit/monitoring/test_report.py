"""An Evidently report with our scores: it is written whatever the columns hold, and added to a workspace."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from evermodel.errors import DataError
from evermodel.monitoring.report import comparable_columns, write_report
from tests.unit.monitoring.synthetic_drift import Distribution, Shop, with_column


def test_a_report_with_an_empty_column_is_written_and_has_our_scores(shop: Shop, tmp_path: Path) -> None:
    """All-NaN, constant, absent and null columns at once; two windows are two runs of one project."""
    rows = with_column(shop.serve(Distribution(shift=0.7)), "height", np.full(336, np.nan))
    rows = with_column(with_column(rows, "age", np.full(336, 40.0)), "town", pa.array(["rome", None] * 168))
    report, workspace = shop.monitor(rows), tmp_path / "workspace"
    for name in ("first.html", "second.html"):
        write_report(
            shop.case, report, rows, Distribution().rows(500, seed=100), out=tmp_path / name, workspace=workspace
        )
    html = (tmp_path / "first.html").read_text()
    assert "<html" in html and "jensen_shannon on binned counts" in html
    snapshots = sorted(workspace.glob("*/snapshots/*.json"))
    assert len(snapshots) == 2 and len({path.parent for path in snapshots}) == 1
    shown = {
        result["metric_value_location"]["metric"]["params"]["column"]: result["value"]
        for result in json.loads(snapshots[0].read_text())["metric_results"].values()
        if result["metric_value_location"]["metric"]["params"]["type"].endswith("ValueDrift")
    }
    assert shown == {
        item.column: item.score for item in report.drift if item.score is not None and item.column in rows.column_names
    }


def test_columns_empty_on_one_side_are_left_out_and_samples_are_small(shop: Shop) -> None:
    rows = with_column(shop.serve(), "height", np.full(336, np.nan)).drop_columns(["speed"])
    many = pa.concat_tables([Distribution().rows(9000, seed=seed) for seed in range(3)])
    current, before, left_out = comparable_columns(shop.case, shop.monitor(rows), rows, many)
    assert left_out == ["speed", "height"] and list(current) == list(before)
    assert len(before) == 20_000 and len(current) == 336


def test_a_window_without_values_cannot_be_reported(shop: Shop) -> None:
    rows = shop.serve().slice(0, 0)
    with pytest.raises(DataError, match="nothing to report"):
        comparable_columns(shop.case, shop.monitor(rows), rows, Distribution().rows(100, seed=1))
