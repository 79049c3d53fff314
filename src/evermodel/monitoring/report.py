"""A window's report as an Evidently snapshot: an HTML page, and a run of a project in an Evidently workspace.

The only module that imports evidently, and only when a report is written, because the import takes ten seconds. Drift
scores aren't computed again: Evidently's metrics show those of the `MonitoringReport`, from the binned counts of all
rows; its charts and summaries use samples. A column that is empty on one side would stop a report, so it is left out
and named in the metadata.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from evermodel import storage
from evermodel.columns import floats, is_text, texts
from evermodel.errors import DataError
from evermodel.monitoring.drift import watched_columns
from evermodel.monitoring.statistics import P_VALUES
from evermodel.records import DriftScore, MonitoringReport
from evermodel.use_case import UseCase

if TYPE_CHECKING:
    import pandas as pd

SAMPLE = 20_000
STAT_TEST = "evermodel_binned"


def write_report(
    use_case: UseCase,
    report: MonitoringReport,
    served: pa.Table,
    reference_rows: pa.Table,
    *,
    out: str | Path,
    workspace: str | Path | None = None,
) -> str:
    """Write the window's Evidently report to `out` (path or URI of an HTML file); returns its URI.

    reference_rows: the champion's training rows, or a sample of them, for the charts. workspace: a local folder; the
    snapshot is added to the project with the use case's name, at the window's end. DataError if no column of the window
    can be shown.
    """
    os.environ.setdefault("DO_NOT_TRACK", "true")
    current, before, left_out = comparable_columns(use_case, report, served, reference_rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings of evidently and of its chart library
        snapshot = _snapshot(report, current, before, left_out)
        storage.write_text(out, snapshot.get_html_str(as_iframe=False))
        if workspace is not None:
            _add_to_workspace(use_case, snapshot, Path(workspace))
    return str(out)


def comparable_columns(
    use_case: UseCase, report: MonitoringReport, served: pa.Table, reference_rows: pa.Table
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Samples of the window and the reference with the columns that have values in both, and the names left out."""
    names = [*watched_columns(use_case), *(item.column for item in report.drift)]
    current, before = _sample_rows(served), _sample_rows(reference_rows)
    shown: dict[str, tuple[Any, Any]] = {}
    left_out: list[str] = []
    for name in dict.fromkeys(names):
        pair = _pair(current, before, name)
        if pair is None:
            left_out.append(name)
        else:
            shown[name] = pair
    if not shown:
        raise DataError(
            f"{use_case.name}: no column of {report.window} has values in the window and the reference; nothing to report"
        )
    import pandas as pd

    first = pd.DataFrame({name: pair[0] for name, pair in shown.items()})
    return first, pd.DataFrame({name: pair[1] for name, pair in shown.items()}), left_out


def _sample_rows(table: pa.Table) -> pa.Table:
    """At most 20,000 rows, evenly in order of time."""
    if table.num_rows <= SAMPLE:
        return table
    return table.take(pa.array(np.linspace(0, table.num_rows - 1, SAMPLE).astype(np.int64)))


def _pair(current: pa.Table, before: pa.Table, name: str) -> tuple[Any, Any] | None:
    """The column of both tables, with one type; None if it is absent, has two types, or is empty in one of them."""
    if name not in current.column_names or name not in before.column_names:
        return None
    columns = (current[name], before[name])
    text = [is_text(column.type) for column in columns]
    if text[0] != text[1]:
        return None
    if text[0]:
        values = tuple(texts(column).to_pandas() for column in columns)
        empty = any(part.isna().all() for part in values)
    else:
        arrays = [floats(column) for column in columns]
        values = tuple(np.where(np.isfinite(array), array, np.nan) for array in arrays)
        empty = any(np.isnan(part).all() for part in values)
    return None if empty else (values[0], values[1])


def _snapshot(report: MonitoringReport, current: pd.DataFrame, before: pd.DataFrame, left_out: list[str]) -> Any:
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    scored = {item.column: item for item in report.drift if item.drifted is not None and item.column in current}
    numeric = [name for name in current if current[name].dtype.kind == "f"]
    definition = DataDefinition(
        numerical_columns=numeric, categorical_columns=[name for name in current if name not in numeric]
    )
    presets: list[Any] = [DataSummaryPreset()]
    if scored:
        _register_stat_test(scored)
        preset = DataDriftPreset(
            columns=list(scored),
            method=STAT_TEST,
            per_column_threshold={name: item.threshold for name, item in scored.items()},
        )
        presets.insert(0, preset)
    metadata: dict[str, Any] = {
        "window": str(report.window),
        "champion": report.champion or "",
        "rows": str(report.rows),
        "unknown": ", ".join(item.column for item in report.drift if item.drifted is None),
        "left out": ", ".join(left_out),
        "alerts": ", ".join(f"{alert.kind}: {alert.diagnosis}" for alert in report.alerts),
    }
    return Report(presets, include_tests=True).run(
        Dataset.from_pandas(current, data_definition=definition),
        Dataset.from_pandas(before, data_definition=definition),
        timestamp=report.window.end,
        metadata=metadata,
        name=f"{report.use_case} {report.window}",
    )


def _register_stat_test(scored: Mapping[str, DriftScore]) -> None:
    """Register an Evidently stat test that returns the column's score in the report."""
    from evidently.legacy.calculations.stattests.registry import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    methods = sorted({item.method for item in scored.values()})

    def score(reference_data: Any, current_data: Any, feature_type: Any, threshold: float) -> tuple[float, bool]:
        item = scored[current_data.name]
        return float(item.score or 0.0), bool(item.drifted)

    register_stattest(
        StatTest(
            name=STAT_TEST,
            display_name=", ".join(f"{name} p" if name in P_VALUES else name for name in methods) + " on binned counts",
            allowed_feature_types=[ColumnType.Numerical, ColumnType.Categorical],
        ),
        default_impl=score,
    )


def _add_to_workspace(use_case: UseCase, snapshot: Any, folder: Path) -> None:
    from evidently.ui.workspace import Workspace

    space = Workspace.create(str(folder))
    found = [project for project in space.list_projects() if project.name == use_case.name]
    project = found[0] if found else space.create_project(use_case.name, description=use_case.description)
    space.add_run(project.id, snapshot, include_data=False)
