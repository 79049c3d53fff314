"""Fraud on the handbook's data: good enough to serve, not too good to be true, and a report that names the leak.

The stages are the real ones: ingest → point-in-time rows → training round → bundle → scores of the test week.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from evermodel import bundle
from evermodel.backtest.backtest import run_backtest
from evermodel.data.events import EventLog
from evermodel.data.ingest import ingest
from evermodel.data.leakage import leakage_report, refuse
from evermodel.errors import LeakageError
from evermodel.features.training_set import build_rows, training_rows
from evermodel.records import Window
from evermodel.training.release import train_release
from evermodel.use_case import UseCase, WindowFeature
from tests.support.scores import metric
from tests.support.use_cases import with_trees

pytestmark = pytest.mark.slow

KNOWN = datetime(2018, 8, 16, tzinfo=UTC)  # a week after the last payment: every label is known
TEST = Window(start=datetime(2018, 8, 1, tzinfo=UTC), end=datetime(2018, 8, 8, tzinfo=UTC))
LEAST_AUC, LEAST_PRECISION, LEAST_PRECISION_OF_TREES = 0.86, 0.60, 0.64
TOO_GOOD = 0.75  # an average precision that only the future can give
HANDBOOK = {
    "amount", "weekend", "night",
    *(f"{name}_{span}d" for name in ("customer_count", "customer_mean", "terminal_count", "terminal_fraud") for span in (1, 7, 30)),
}  # fmt: skip


class Result(NamedTuple):
    """The figures of a trained release on the test week, and the leaks that the report finds in its rows."""

    auc: float
    precision: float
    leaks: list[str | None]  # columns that know the label


@pytest.fixture(scope="module")
def log(fraud: UseCase, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventLog]:
    made = EventLog(str(tmp_path_factory.mktemp("fraud")))
    report = ingest(fraud, "transactions", made, data_dir=shared_data, now=KNOWN)
    assert (report.rows_in, report.applied, report.rejected) == (498_242, 498_242, 0)
    yield made


def train_and_evaluate(use_case: UseCase, log: EventLog, out: Path) -> Result:
    """Trains on `training.first` when its labels are known, and scores every payment of the test week."""
    first = use_case.training.first
    assert first is not None
    now = TEST.start  # a week after the first window: its labels are known
    training = training_rows(
        use_case, log, windows=[first], now=now, champion_cursor=None, mode="from_scratch", seed=use_case.training.seed
    )
    trained = train_release(use_case, training, parent=None, mode="from_scratch", trigger=None, now=now, out=str(out))
    test = build_rows(use_case, log, window=TEST, now=KNOWN)
    scores = bundle.open_release(trained.release).score(test)
    labels = test["label:fraud"]
    assert labels.null_count == 0
    auc, precision = metric("auc", scores, labels), metric("average_precision", scores, labels)
    both = pa.concat_tables([training.train, test])
    findings = leakage_report(use_case, both, train=np.arange(both.num_rows) < training.train.num_rows, label="fraud")
    leaks = [finding.column for finding in findings if finding.level == "leak"]
    print(
        f"\n{use_case.name}: {training.train.num_rows} rows trained on in {trained.seconds:.1f} s, {test.num_rows} tested: "
        f"AUC {auc:.3f}, average precision {precision:.3f}; leaks: "
        f"{', '.join(map(str, leaks)) or 'none'}"
    )
    assert auc is not None and precision is not None
    try:
        refuse(findings)
    except LeakageError as error:
        assert all(str(column) in str(error) for column in leaks)
    return Result(auc, precision, leaks)


def test_fraud_is_found_by_the_fifteen_features(fraud: UseCase, log: EventLog, tmp_path: Path) -> None:
    assert set(fraud.feature_columns()) == HANDBOOK
    found = train_and_evaluate(fraud, log, tmp_path)
    assert found.leaks == []
    assert found.auc >= LEAST_AUC
    assert LEAST_PRECISION <= found.precision <= TOO_GOOD


def test_boosted_trees_find_fraud_by_the_same_features(fraud: UseCase, log: EventLog, tmp_path: Path) -> None:
    found = train_and_evaluate(with_trees(fraud), log, tmp_path)
    assert found.leaks == []
    assert found.auc >= LEAST_AUC
    assert LEAST_PRECISION_OF_TREES <= found.precision <= TOO_GOOD


def test_without_the_delay_it_is_too_good_and_the_report_names_the_columns(
    fraud: UseCase, log: EventLog, tmp_path: Path
) -> None:
    at_once = tuple(
        feature.model_copy(update={"delay": 0}) if isinstance(feature, WindowFeature) else feature
        for feature in fraud.features
    )
    found = train_and_evaluate(fraud.model_copy(update={"name": "fraud_at_once", "features": at_once}), log, tmp_path)
    assert found.precision > TOO_GOOD
    assert found.leaks == ["terminal_fraud_1d", "terminal_fraud_7d", "terminal_fraud_30d"]


def test_a_week_lived_with_labels_a_week_late(fraud: UseCase, shared_data: Path, tmp_path: Path) -> None:
    """Nothing can be judged before a week is over, so the loop retrains by schedule, on what is a week old."""
    first, live = fraud.training.first, fraud.training.live
    assert first is not None and live == TEST.start
    result = run_backtest(fraud, data_dir=shared_data, out=tmp_path, policies=("stateful", "static"))
    lives = {life["policy"]: life for life in result["policies"]}
    for life in lives.values():
        print(f"\nreplay, {life['policy']}: {life['totals']}")
        assert [window["rows"] > 9_000 and window["metric"] > LEAST_PRECISION - 0.1 for window in life["windows"]] == [
            True
        ] * 7
        assert datetime.fromisoformat(life["windows"][0]["start"]) == live
    runs = lives["stateful"]["retrains"]
    assert len(runs) >= 2 and {run["verdict"] for run in runs} >= {"promote"}
    for run in runs:
        known = datetime.fromisoformat(run["at"]) - timedelta(days=7)
        spans = [*run["trained_on"], run["gate_window"]]
        assert all(first.end <= datetime.fromisoformat(span["start"]) for span in spans), "new to the champion"
        assert all(datetime.fromisoformat(span["end"]) <= known for span in spans), "their labels were known"
        assert run["step0_loss"] == pytest.approx(run["parent_loss"], abs=1e-5)
    assert lives["stateful"]["totals"]["metric"] > lives["static"]["totals"]["metric"]
