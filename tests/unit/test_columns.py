"""Columns as arrays and back: types, nulls, numbers, and codes."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from evermodel import columns
from evermodel.columns import TIME
from evermodel.errors import DataError

CHUNKED = pa.chunked_array([["b", None], ["a", "b"]])


def test_one_array_holds_all_chunks() -> None:
    assert columns.as_array(CHUNKED).to_pylist() == ["b", None, "a", "b"]
    assert columns.as_array(pa.chunked_array([["b"]])).to_pylist() == ["b"]
    assert columns.as_array(pa.chunked_array([], pa.int64())).equals(pa.array([], pa.int64()))


def test_a_column_is_replaced_in_its_place_or_appended() -> None:
    table = pa.table({"a": [1], "b": [2]})
    assert columns.put_column(table, "a", pa.array([3])).to_pydict() == {"a": [3], "b": [2]}
    assert columns.put_column(table, "c", pa.array([3])).column_names == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (pa.string(), True),
        (pa.large_string(), True),
        (pa.dictionary(pa.int32(), pa.string()), True),
        (pa.dictionary(pa.int32(), pa.int64()), False),
        (pa.int64(), False),
        (TIME, False),
    ],
)
def test_text_is_known_by_its_type(kind: pa.DataType, text: bool) -> None:
    assert columns.is_text(kind) == text


def test_a_value_takes_the_columns_type() -> None:
    assert columns.to_scalar(1, pa.float64(), "amount").as_py() == 1.0
    with pytest.raises(DataError, match="'much' can't equal amount, which is double"):
        columns.to_scalar("much", pa.float64(), "amount")


def test_masks_of_nulls_and_booleans() -> None:
    assert columns.valid_mask(CHUNKED).tolist() == [True, False, True, True]
    numbers = pa.array([1.0, float("nan"), None])
    assert columns.valid_mask(numbers).tolist() == [True, True, False]
    assert columns.valid_mask(numbers, nan_is_null=True).tolist() == [True, False, False]
    assert columns.true_mask(pa.array([True, None, False])).tolist() == [True, False, False]
    assert columns.valid_mask(pa.chunked_array([], pa.int64())).tolist() == []


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        (pa.array([1, None, 3]), [1.0, np.nan, 3.0]),
        (pa.array([True, False, None]), [1.0, 0.0, np.nan]),
        (pa.array([1.5, float("nan"), None]), [1.5, np.nan, np.nan]),
        (pa.array([None, None], pa.null()), [np.nan, np.nan]),
        (pa.array([datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)], pa.timestamp("ms", tz="UTC")), [1_000_000.0]),
        (pa.array([7, 7]).dictionary_encode(), [7.0, 7.0]),
    ],
)
def test_numbers_have_nan_for_null(column: pa.Array, wanted: list[float]) -> None:
    for found in (column, pa.chunked_array([column]), pa.chunked_array([column[:1], column[1:]])):
        np.testing.assert_array_equal(columns.floats(found), wanted)
        assert columns.as_numbers(found).to_pylist() == [None if np.isnan(value) else value for value in wanted]


def test_text_is_no_number() -> None:
    with pytest.raises(DataError, match="a column of type string holds no numbers"):
        columns.floats(CHUNKED)
    assert columns.as_numbers(CHUNKED).equals(CHUNKED)


def test_times_are_whole_microseconds() -> None:
    micros = np.array([0, 1_700_000_000_000_000])
    times = columns.times_array(micros)
    assert times.type == TIME
    np.testing.assert_array_equal(columns.ints(times), micros)
    np.testing.assert_array_equal(columns.ints(pa.chunked_array([times.cast(pa.timestamp("s", tz="UTC"))])), micros)
    with pytest.raises(DataError, match="1 of 2 times or sequence numbers are null"):
        columns.ints(pa.array([1, None]))


def test_texts_and_plain_values() -> None:
    assert columns.texts(pa.chunked_array([[1, None]])).to_pylist() == ["1", None]
    assert columns.texts(CHUNKED.dictionary_encode()).to_pylist() == CHUNKED.to_pylist()
    assert columns.plain_values(CHUNKED).tolist() == ["b", None, "a", "b"]
    np.testing.assert_array_equal(columns.plain_values(pa.array([1, None])), [1.0, np.nan])


def test_codes_go_by_first_appearance() -> None:
    found, values = columns.codes(CHUNKED)
    assert found.tolist() == [0, -1, 1, 0] and values.to_pylist() == ["b", "a"]
    found, values = columns.codes(pa.array([2.0, float("nan"), None, 2.0]))
    assert found.tolist() == [0, -1, -1, 0] and values.to_pylist() == [2.0]
    found, values = columns.codes(pa.array([None, None], pa.null()))
    assert found.tolist() == [-1, -1] and len(values) == 0
    assert columns.codes(columns.times_array(np.array([5])))[1].to_pylist() == [5]
    assert columns.codes_with_null(CHUNKED).tolist() == [0, 1, 2, 0]


def test_codes_of_a_vocabulary() -> None:
    assert columns.codes_in(CHUNKED, ["a", "c"]).tolist() == [-1, -1, 0, -1]
    assert columns.codes_in(CHUNKED, ["a", "c"], other=2, null=3).tolist() == [2, 3, 0, 2]
    assert columns.codes_in(pa.array([1, 2, None]), ["2"], other=1, null=1).tolist() == [1, 0, 1]
    assert columns.codes_in(pa.array([], pa.string()), ["a"]).tolist() == []


def test_codes_are_shared_by_two_columns() -> None:
    left, right = columns.shared_codes(pa.chunked_array([["a", None]]), pa.chunked_array([["c", "a"]]))
    assert left.tolist() == [0, -1] and right.tolist() == [1, 0]
    left, right = columns.shared_codes(pa.chunked_array([[7, None]]), pa.chunked_array([["7", "8"]]))
    assert left[0] == right[0] and left[1] == -1 and right[1] not in left
    left, right = columns.shared_codes(pa.chunked_array([[7, None]]), pa.chunked_array([[9, 7]]))
    assert (left.tolist(), right.tolist()) == ([7, -1], [9, 7])  # small integers are their own codes
    left, right = columns.shared_codes(pa.chunked_array([[-5, 1 << 40]]), pa.chunked_array([[1 << 40]]))
    assert left.tolist() == [0, 1] and right.tolist() == [1]


def test_a_key_of_several_columns_has_one_code() -> None:
    left = [pa.chunked_array([["a", "a", None, "b"]]), pa.chunked_array([[1, 2, 1, None]])]
    right = [pa.chunked_array([["a", "b"]]), pa.chunked_array([[2, 2]])]
    ours, theirs = columns.key_codes(left, right)
    assert ours[1] == theirs[0] and len({ours[0], ours[1], theirs[1]}) == 3
    assert ours[2:].tolist() == [-1, -1] and min(*ours[:2], *theirs) >= 0


def test_equal_rows_have_equal_codes() -> None:
    found = columns.row_codes([pa.array(["a", None, "a", None]), pa.array([1, None, 1, 2])], rows=4)
    assert found[0] == found[2] and len(set(found.tolist())) == 3
    assert columns.row_codes([], rows=2).tolist() == [0, 0]
