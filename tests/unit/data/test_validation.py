"""A bad row is rejected with its number, field, reason and value; good rows get their declared types."""

import numpy as np
import pyarrow as pa
import pytest

from evermodel.data.validation import parse_times, validate
from evermodel.errors import DataError
from tests.unit.data.shop import raw, shop, visit


@pytest.mark.parametrize(
    ("cells", "field", "reason", "value"),
    [
        ({"id": "x1"}, "visit", "not a int", "x1"),
        ({"id": "1.5"}, "visit", "not a int", "1.5"),
        ({"id": "99999999999999999999"}, "visit", "not a int", "99999999999999999999"),
        ({"who": None}, "visitor", "null", None),
        ({"spent": "much"}, "spent", "not a float", "much"),
        ({"spent": ""}, "spent", "null", None),
        ({"spent": "NaN"}, "spent", "null", None),
        ({"spent": "inf"}, "spent", "not a float", "inf"),
        ({"spent": "-0.01"}, "spent", "below 0", "-0.01"),
        ({"spent": "100.5"}, "spent", "above 100", "100.5"),
        ({"stars": "6"}, "stars", "above 5", "6"),
        ({"kind": "swim"}, "kind", "not an allowed value", "swim"),
        ({"at": None}, "event_time", "null", None),
        ({"at": "2024-02-30T00:00:00Z"}, "event_time", "not a time", "2024-02-30T00:00:00Z"),
        ({"written": "soon"}, "created_time", "not a time", "soon"),
    ],
)
def test_a_bad_cell_is_a_reject_with_its_value(
    cells: dict[str, str | None], field: str, reason: str, value: str
) -> None:
    case = shop()
    valid, rejects = validate(case, case.source("visits"), raw([visit(1), visit(2, **cells), visit(3)]))
    assert valid.column("visit").to_pylist() == [1, 3]
    assert rejects.to_pylist() == [{"row": 1, "field": field, "reason": reason, "value": value}]


def test_a_row_with_two_faults_is_one_reject() -> None:
    case = shop()
    valid, rejects = validate(case, case.source("visits"), raw([visit(1, spent="-1", at="never", stars="0")]))
    assert valid.num_rows == 0
    assert rejects.column("field").to_pylist() == ["event_time"]


def test_good_rows_get_their_declared_types() -> None:
    case = shop()
    rows = [visit(1, spent=" +1e1 ", stars=""), visit(2, id="12.0", at="2024-05-02 10:00:00")]
    valid, rejects = validate(case, case.source("visits"), raw(rows))
    assert rejects.num_rows == 0
    assert valid.schema.names == ["visit", "visitor", "spent", "stars", "kind", "country", "event_time", "created_time"]
    first, second = valid.to_pylist()
    assert (first["spent"], first["stars"], first["country"]) == (10.0, None, "ch")
    assert second["visit"] == 12
    assert second["event_time"].isoformat() == "2024-05-02T10:00:00+00:00"


def test_a_missing_column_names_the_nearest() -> None:
    case = shop()
    table = raw([visit(1)]).rename_columns(["id", "who", "spend", "stars", "kind", "at", "written"])
    with pytest.raises(DataError, match=r"shop.visits: the source has no column 'spent'; did you mean 'spend'\?"):
        validate(case, case.source("visits"), table)


def test_typed_columns_are_read_as_well() -> None:
    case = shop()
    times = pa.array(["2024-05-01T00:00:00.123456789"] * 3).cast(pa.timestamp("ns"))
    table = pa.table(
        {
            "id": pa.array([1.0, 2.0, 2.5]),
            "who": pa.array([7, 8, 9], pa.int32()),
            "spent": pa.array([1, 2, 3], pa.int8()),
            "stars": pa.array([1.0, np.nan, 3.0]),
            "kind": pa.array(["walk", "ride", "walk"]).dictionary_encode(),
            "at": times,
            "written": times.cast(pa.timestamp("us", tz="UTC"), safe=False),
        }
    )
    valid, rejects = validate(case, case.source("visits"), table)
    assert rejects.to_pylist() == [{"row": 2, "field": "visit", "reason": "not a int", "value": "2.5"}]
    assert valid.column("stars").to_pylist() == [1, None]
    assert valid.column("visitor").to_pylist() == ["7", "8"]
    assert valid.column("event_time")[0].as_py().isoformat() == "2024-05-01T00:00:00.123456+00:00"


def test_times_of_any_zone_and_format() -> None:
    text = pa.chunked_array([["2024-05-01T02:00:00+02:00", "2024-05-01", "nonsense", None]])
    assert [time and time.isoformat() for time in parse_times(text).to_pylist()] == [
        "2024-05-01T00:00:00+00:00"
    ] * 2 + [
        None,
        None,
    ]
    entree = parse_times(pa.chunked_array([["07/Sep/1996:12:17:05 "]]), "%d/%b/%Y:%H:%M:%S")
    assert entree[0].as_py().isoformat() == "1996-09-07T12:17:05+00:00"
    assert parse_times(pa.chunked_array([[86400]]), "%s")[0].as_py().isoformat() == "1970-01-02T00:00:00+00:00"
    with pytest.raises(DataError, match="holds no times"):
        parse_times(pa.chunked_array([[86400]]))
