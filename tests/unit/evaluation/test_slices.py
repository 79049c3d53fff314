import numpy as np
import pyarrow as pa
import pytest

from evermodel.evaluation import slices
from evermodel.evaluation.samples import Sample, sample_of
from evermodel.use_case import Slice
from tests.support.scores import binary
from tests.unit.evaluation import small

ROWS = small.table(200)
OURS = sample_of(small.case(), ROWS, binary(small.by_x(ROWS)))
THEIRS = sample_of(small.case(), ROWS, binary(1 - small.by_x(ROWS)))


def measure(*parts: Slice, rows: pa.Table = ROWS, theirs: Sample | None = THEIRS) -> tuple[slices.SliceResult, ...]:
    return slices.measure(small.case(slices=parts), rows, OURS, theirs, metric="accuracy")


def test_each_value_is_measured_on_its_own_rows_beside_the_champion() -> None:
    found = {result.value: result for result in measure(Slice(field="shop", minimum_rows=10))}
    north = np.array([shop == "north" for shop in ROWS["shop"].to_pylist()])
    right = (small.by_x(ROWS) >= 0.5) == ROWS["label:sold"].to_numpy()
    assert found["north"].rows == north.sum()
    assert found["north"].challenger == right[north].mean()
    assert found["north"].champion == pytest.approx(1 - right[north].mean())
    assert sum(result.rows for result in found.values()) == 200


def test_below_its_minimum_support_a_part_has_no_figure() -> None:
    tiny = ROWS["shop"].to_pylist().count("tiny")
    result = {r.value: r for r in measure(Slice(field="shop", minimum_rows=tiny + 1))}["tiny"]
    assert (result.rows, result.challenger, result.champion) == (tiny, None, None)
    assert {r.value: r for r in measure(Slice(field="shop", minimum_rows=tiny))}["tiny"].challenger is not None


def test_bins_take_their_lower_edge_and_nulls_are_a_part() -> None:
    rows = ROWS.set_column(3, "x", pa.array([-1.0, 0.0, 0.5, 1.0, None] * 40))
    found = [(r.value, r.rows) for r in measure(Slice(field="x", bins=(0.0, 1.0), minimum_rows=1), rows=rows)]
    assert found == [("below 0", 40), ("0 to 1", 80), ("from 1", 40), ("missing", 40)]


def test_a_number_without_bins_goes_by_value_or_by_quartiles() -> None:
    few = ROWS.set_column(3, "x", pa.array([1.0, 2.0] * 100))
    assert [r.value for r in measure(Slice(field="x", minimum_rows=1), rows=few)] == ["1", "2"]
    assert [r.rows for r in measure(Slice(field="x", minimum_rows=1))] == [50, 50, 50, 50]


def test_only_the_largest_of_many_values_are_kept() -> None:
    names = [f"s{i:03d}" for i in range(100)] + ["s000"] * 100
    found = measure(Slice(field="shop", minimum_rows=1), rows=ROWS.set_column(2, "shop", pa.array(names)))
    assert len(found) == slices.MOST_VALUES
    assert max(found, key=lambda result: result.rows).value == "s000"


def test_without_a_champion_and_without_rows() -> None:
    assert all(result.champion is None for result in measure(Slice(field="shop"), theirs=None))
    assert list(slices.parts(Slice(field="shop"), ROWS.slice(0, 0))) == []


def test_a_result_becomes_a_record_of_the_report() -> None:
    score = measure(Slice(field="shop", minimum_rows=10))[0].to_record()
    assert (score.slice, score.value) == ("shop", "north")
    assert score.metric is not None and score.champion is not None
