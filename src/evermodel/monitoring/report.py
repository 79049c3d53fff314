"""A window's report as an Evidently snapshot: HTML to read, and a run of a project in an Evidently workspace.

The only module that imports evidently, and only when a report is written: the import takes ten seconds. Scores are not
computed again: Evidently's own drift metrics are filled with those of the `MonitoringReport`, which are of all rows on
binned counts; its pictures and summaries are of samples. One empty column would stop a report, so columns without a
value on either side are left out of it, and named in its metadata.
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
from evermodel.errors import DataError
from evermodel.monitoring import binning
from evermodel.monitoring.drift import watched_columns
from evermodel.monitoring.statistics import P_VALUES
from evermodel.records import DriftScore, MonitoringReport
from evermodel.use_case import UseCase

if TYPE_CHECKING:
    import pandas as pd

SAMPLE = 20_000
STATTEST = "evermodel_binned"


def write_report(
    use_case: UseCase,
    report: MonitoringReport,
    served: pa.Table,
    reference_rows: pa.Table,
    *,
    out: str | Path,
    workspace: str | Path | None = None,
) -> str:
    """Write the window's Evidently report to `out` (path or URI of an HTML file); its URI.

    reference_rows: the champion's training rows, or a sample of them, for the pictures. workspace: a local folder; the
    snapshot is added to its project of the use case's name, at the window's end. DataError where no column of the
    window can be shown.
    """
    os.environ.setdefault("DO_NOT_TRACK", "true")
    current, before, left_out = sanitised(use_case, report, served, reference_rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # evidently and what it draws with warn of each other's deprecations
        snapshot = _snapshot(report, current, before, left_out)
        storage.write_text(out, snapshot.get_html_str(as_iframe=False))
        if workspace is not None:
            _add(use_case, snapshot, Path(workspace))
    return str(out)


def sanitised(
    use_case: UseCase, report: MonitoringReport, served: pa.Table, reference_rows: pa.Table
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Samples of the window and the reference with the columns that both hold values of, and those left out."""
    names = [*watched_columns(use_case), *(item.column for item in report.drift)]
    current, before = _thinned(served), _thinned(reference_rows)
    shown: dict[str, tuple[Any, Any]] = {}
    left_out: list[str] = []
    for name in dict.fromkeys(names):
        pair = _pair(current, before, name)
        if pair is None:
            left_out.append(name)
        else:
            shown[name] = pair
    if not shown:
        raise DataError(f"{use_case.name}: no column of {report.window} holds a value on both sides; nothing to report")
    import pandas as pd

    first = pd.DataFrame({name: pair[0] for name, pair in shown.items()})
    return first, pd.DataFrame({name: pair[1] for name, pair in shown.items()}), left_out


def _thinned(table: pa.Table) -> pa.Table:
    """At most 20,000 rows, evenly in order of time."""
    if table.num_rows <= SAMPLE:
        return table
    return table.take(pa.array(np.linspace(0, table.num_rows - 1, SAMPLE).astype(np.int64)))


def _pair(current: pa.Table, before: pa.Table, name: str) -> tuple[Any, Any] | None:
    """The column on both sides, of one type; None where it is absent, of two types, or empty on a side."""
    if name not in current.column_names or name not in before.column_names:
        return None
    columns = (current[name], before[name])
    text = [binning.is_text(column) for column in columns]
    if text[0] != text[1]:
        return None
    if text[0]:
        values = tuple(binning.texts(column).to_pandas() for column in columns)
        empty = any(part.isna().all() for part in values)
    else:
        arrays = [binning.numbers(column) for column in columns]
        values = tuple(np.where(np.isfinite(array), array, np.nan) for array in arrays)
        empty = any(np.isnan(part).all() for part in values)
    return None if empty else (values[0], values[1])


def _snapshot(report: MonitoringReport, current: pd.DataFrame, before: pd.DataFrame, left_out: list[str]) -> Any:
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    known = {item.column: item for item in report.drift if item.drifted is not None and item.column in current}
    numeric = [name for name in current if current[name].dtype.kind == "f"]
    definition = DataDefinition(
        numerical_columns=numeric, categorical_columns=[name for name in current if name not in numeric]
    )
    presets: list[Any] = [DataSummaryPreset()]
    if known:
        _register(known)
        preset = DataDriftPreset(
            columns=list(known),
            method=STATTEST,
            per_column_threshold={name: item.threshold for name, item in known.items()},
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


def _register(known: Mapping[str, DriftScore]) -> None:
    """Make our scores an Evidently stat test that looks its column's up, so that its own metrics carry them."""
    from evidently.legacy.calculations.stattests.registry import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    methods = sorted({item.method for item in known.values()})

    def score(reference_data: Any, current_data: Any, feature_type: Any, threshold: float) -> tuple[float, bool]:
        item = known[current_data.name]
        return float(item.score or 0.0), bool(item.drifted)

    register_stattest(
        StatTest(
            name=STATTEST,
            display_name=", ".join(f"{name} p" if name in P_VALUES else name for name in methods) + " on binned counts",
            allowed_feature_types=[ColumnType.Numerical, ColumnType.Categorical],
        ),
        default_impl=score,
    )


def _add(use_case: UseCase, snapshot: Any, folder: Path) -> None:
    from evidently.ui.workspace import Workspace

    space = Workspace.create(str(folder))
    found = [project for project in space.list_projects() if project.name == use_case.name]
    project = found[0] if found else space.create_project(use_case.name, description=use_case.description)
    space.add_run(project.id, snapshot, include_data=False)
