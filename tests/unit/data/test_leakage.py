"""Injected leaks are found and named; clean rows have no findings."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from evermodel.columns import times_array
from evermodel.data.leakage import Finding, auc, declared_leaks, leakage_report, refuse
from evermodel.errors import DataError, LeakageError
from evermodel.use_case import UseCase
from tests.support.use_cases import make_use_case


def case(delay: str = "7d", *, place: bool = False) -> UseCase:
    """`place`: adds the feature that is the label `town` itself."""
    rate = {"kind": "window", "source": "loans", "entity": "person", "aggregate": "rate", "field": "lost"}
    features: dict[str, dict[str, Any]] = {
        "age": {},
        "weekday": {"kind": "calendar", "part": "weekday"},
        "loss_rate": {**rate, "spans": ["1d", "30d"], "delay": delay},
    }
    if place:
        features["place"] = {"field": "town", "encode": "hash"}
    return make_use_case(
        name="loans",
        entities={"person": {"key": "person", "type": "int"}},
        fields={
            "person": "int",
            "request": "int",
            "amount": {},
            "age": {"nullable": True},
            "town": "string",
            "lost": "int",
        },
        source={"name": "loans"},
        predict={"group": "request"},
        labels={
            "lost": {"delay": "7d"},
            "town": {"type": "category", "delay": "0s"},
            "amount": {"type": "number", "delay": "0s"},
        },
        features=features,
        objectives={"lost": "lost"},
        monitoring={"window": "7d"},
    )


def without_town(found: UseCase) -> UseCase:
    return found.model_copy(update={"labels": found.labels[:1]})


def rows(count: int = 400, **columns: pa.Array) -> pa.Table:
    """Clean rows with these `columns` replaced: age says a little about the label, as a feature should."""
    rng = np.random.default_rng(3)
    lost = (rng.random(count) < 0.3).astype(float)
    table = {
        "row_id": pa.array(np.arange(count)),
        "event_time": times_array(np.arange(count) * 3_600_000_000),
        "person": pa.array(np.arange(count)),
        "request": pa.array(np.arange(count) // 2),
        "age": pa.array(rng.normal(40, 10, count) + 8 * lost),
        "weekday": pa.array(np.arange(count) // 24 % 7, pa.float64()),
        "loss_rate_1d": pa.array(rng.random(count)),
        "loss_rate_30d": pa.array(rng.random(count)),
        "label:lost": pa.array(lost),
    }
    return pa.table(table | columns)


TRAIN = np.arange(400) < 300


def leaks(found: list[Finding]) -> list[tuple[str, str | None]]:
    return [(finding.kind, finding.column) for finding in found if finding.level == "leak"]


def test_clean_rows_have_no_findings() -> None:
    table = rows()
    age = table.column("age").to_numpy()[TRAIN]
    found = leakage_report(
        without_town(case()), table, train=TRAIN, label="lost", fitted={"age": (age.mean(), age.std())}
    )
    assert found == []
    refuse(found)


def test_a_window_that_sees_labels_before_they_are_known_is_named() -> None:
    found = leakage_report(without_town(case("1d")), rows(), train=TRAIN, label="lost")
    assert leaks(found) == [("feature_knows_label", "loss_rate_1d"), ("feature_knows_label", "loss_rate_30d")]
    assert found[0].reason == ("loss_rate_1d reads lost 1d after the event, and it is known 7d after: set delay: 7d")
    with pytest.raises(LeakageError, match="loss_rate_30d reads lost"):
        refuse(found)


def test_fraud_without_its_delay_is_named_and_as_shipped_is_clean(fraud: UseCase) -> None:
    assert declared_leaks(fraud) == []
    without_delay = [
        feature.model_copy(update={"delay": 0}) if feature.name == "terminal_fraud" else feature
        for feature in fraud.features
    ]
    found = declared_leaks(fraud.model_copy(update={"features": tuple(without_delay)}))
    assert [finding.column for finding in found] == ["terminal_fraud_1d", "terminal_fraud_7d", "terminal_fraud_30d"]


def test_the_label_as_a_feature_is_named() -> None:
    assert [finding.column for finding in declared_leaks(case(place=True))] == ["place"]


def test_a_feature_that_alone_predicts_the_label_is_found() -> None:
    lost = rows().column("label:lost").to_numpy()
    noise = np.random.default_rng(1).normal(0, 0.1, 400)
    found = leakage_report(without_town(case()), rows(age=pa.array(-lost + noise)), train=TRAIN, label="lost")
    assert leaks(found) == [("feature_knows_label", "age")]
    assert found[0].value is not None
    assert found[0].value > 0.98


def test_a_feature_whose_gaps_predict_the_label_is_found() -> None:
    table = rows()
    lost = table.column("label:lost").to_numpy()
    gaps = pa.array(table.column("age").to_numpy(), mask=lost == 1)
    found = leakage_report(without_town(case()), table.set_column(4, "age", gaps), train=TRAIN, label="lost")
    assert leaks(found) == [("feature_knows_label", "age")]
    assert "whether age is missing" in found[0].reason


def test_categories_that_predict_a_class_or_a_number_are_found() -> None:
    rng = np.random.default_rng(5)
    town = rng.choice(["x", "y", "z"], 400)
    both = case(place=True)
    columns = {"place": pa.array(np.char.add("in ", town)), "label:town": pa.array(town)}
    named = {finding.column: finding for finding in leakage_report(both, rows(**columns), train=TRAIN, label="town")}
    assert "alone" in named["place"].reason or "itself" in named["place"].reason
    columns = {"place": pa.array(rng.permutation(town)), "label:town": pa.array(town)}
    found = leakage_report(case(), rows(**columns), train=TRAIN, label="town")
    assert leaks(found) == []
    amount = rng.normal(size=400)
    found = leakage_report(
        case(), rows(age=pa.array(np.exp(amount)), **{"label:amount": pa.array(amount)}), train=TRAIN, label="amount"
    )
    assert leaks(found) == [("feature_knows_label", "age")]


def test_statistics_of_all_rows_are_a_leak_and_of_others_a_note() -> None:
    table = rows(age=pa.array(np.arange(400.0)))
    every = table.column("age").to_numpy()
    train = every[TRAIN]
    report = without_town(case())

    def found(mean: float, scale: float) -> list[tuple[str, str]]:
        findings = leakage_report(report, table, train=TRAIN, label="lost", fitted={"age": (mean, scale)})
        return [(item.level, item.kind) for item in findings]

    assert found(train.mean(), train.std()) == []
    assert found(every.mean(), train.std()) == [("leak", "statistic_beyond_training")]
    assert found(train.mean(), every.std()) == [("leak", "statistic_beyond_training")]
    assert found(1.0, train.std()) == [("note", "statistic_beyond_training")]


def test_requests_and_entities_across_the_split() -> None:
    split_request = np.arange(400) < 301
    found = leakage_report(without_town(case()), rows(), train=split_request, label="lost")
    assert leaks(found) == [("entity_across_split", "request")]
    found = leakage_report(without_town(case()), rows(person=pa.array(np.arange(400) % 50)), train=TRAIN, label="lost")
    assert [(item.level, item.column, item.value) for item in found] == [("note", "person", 1.0)]


def test_repeated_rows() -> None:
    table = rows()
    twice = pa.concat_tables([table, table.slice(0, 3)])
    twice = twice.set_column(0, "row_id", pa.array(np.arange(403)))
    found = leakage_report(without_town(case()), twice, train=np.arange(403) < 300, label="lost")
    assert ("duplicate_rows", None) in leaks(found)
    assert "3 of 403 rows" in found[-1].reason
    inside = leakage_report(
        without_town(case()), twice, train=(np.arange(403) < 300) | (np.arange(403) > 399), label="lost"
    )
    assert [item.level for item in inside if item.kind == "duplicate_rows"] == ["note"]


def test_too_few_rows_have_no_findings() -> None:
    few = rows(30).set_column(4, "age", rows(30).column("label:lost"))
    assert leakage_report(without_town(case()), few, train=np.arange(30) < 20, label="lost") == []


def test_an_unknown_label_or_a_wrong_mask_is_an_error() -> None:
    with pytest.raises(DataError, match=r"no label 'loss'; did you mean 'lost'\?"):
        leakage_report(case(), rows(), train=TRAIN, label="loss")
    with pytest.raises(DataError, match="5 entries for 400 rows"):
        leakage_report(case(), rows(), train=TRAIN[:5], label="lost")


def test_the_area_counts_ties_half() -> None:
    assert auc(np.array([1.0, 2.0, 2.0, 3.0]), np.array([0.0, 0.0, 1.0, 1.0])) == 0.875
