"""An Evidently report of our scores: written whatever the columns hold, and kept in a workspace."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from evermodel.errors import DataError
from evermodel.monitoring.report import sanitised, write_report

from .synthetic_drift import Shop, World, put


def test_a_report_with_a_dead_column_is_written_and_carries_our_scores(shop: Shop, tmp_path: Path) -> None:
    """All-NaN, constant, absent and null columns at once; two windows are two runs of one project."""
    rows = put(shop.serve(World(shift=0.7)), "height", np.full(336, np.nan))
    rows = put(put(rows, "age", np.full(336, 40.0)), "town", pa.array(["rome", None] * 168))
    report, workspace = shop.look(rows), tmp_path / "workspace"
    for name in ("first.html", "second.html"):
        write_report(shop.case, report, rows, World().rows(500, seed=100), out=tmp_path / name, workspace=workspace)
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


def test_columns_without_a_value_on_a_side_are_left_out_and_samples_are_small(shop: Shop) -> None:
    rows = put(shop.serve(), "height", np.full(336, np.nan)).drop_columns(["speed"])
    many = pa.concat_tables([World().rows(9000, seed=seed) for seed in range(3)])
    current, before, left_out = sanitised(shop.case, shop.look(rows), rows, many)
    assert left_out == ["speed", "height"] and list(current) == list(before)
    assert len(before) == 20_000 and len(current) == 336


def test_a_window_of_nothing_can_not_be_reported(shop: Shop) -> None:
    rows = shop.serve().slice(0, 0)
    with pytest.raises(DataError, match="nothing to report"):
        sanitised(shop.case, shop.look(rows), rows, World().rows(100, seed=1))
