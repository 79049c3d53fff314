"""Transforms: each encoding, exact JSON, and updates."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from evermodel.errors import DataError
from evermodel.features import transforms
from evermodel.features.encoders import Hashing, Vocabulary
from evermodel.features.transforms import Transforms, fit
from evermodel.use_case import UseCase
from tests.support.use_cases import make_use_case


def case(**features: dict[str, Any]) -> UseCase:
    return make_use_case(
        name="small",
        fields={"user": "string", "time": "timestamp", "x": {"nullable": True}, "c": "string", "y": "int"},
        source={"name": "events", "event_time": {"field": "time"}},
        labels={"y": {"delay": "1d"}},
        features=features,
        monitoring={"window": "7d"},
    )


def table(**columns: Any) -> pa.Table:
    return pa.table(columns)


def test_numeric_is_standardised_by_the_training_rows_alone() -> None:
    fitted = fit(case(x={}), "y", table(x=[1.0, 2.0, 3.0]))
    scale = np.std([1.0, 2.0, 3.0])
    later = fitted.apply(table(x=[2.0, 100.0])).dense
    assert later.dtype == np.float32
    np.testing.assert_allclose(later[:, 0], [0.0, 98.0 / scale], rtol=1e-6)


@pytest.mark.parametrize(("missing", "fill", "columns"), [("mean", 2.0, 1), ("zero", 0.0, 1), ("indicator", 2.0, 2)])
def test_missing_cells_take_the_fill(missing: str, fill: float, columns: int) -> None:
    fitted = fit(case(x={"missing": missing}), "y", table(x=pa.array([1.0, None, 3.0, float("nan")])))
    dense = fitted.apply(table(x=pa.array([None, 3.0], pa.float64()))).dense
    assert dense.shape == (2, columns)
    assert dense[0, 0] == pytest.approx((fill - 2.0) / 1.0)
    if columns == 2:
        assert dense[:, 1].tolist() == [1.0, 0.0]
        assert fitted.spec.dense == ("x", "x:missing")


def test_nulls_that_appear_later_are_filled_and_get_their_column_at_the_next_update() -> None:
    fitted = fit(case(x={}), "y", table(x=[1.0, 2.0, 3.0]))
    later = table(x=pa.array([1.0, None, 5.0]))
    assert fitted.spec.dense == ("x",)
    assert fitted.apply(later).dense[1, 0] == 0
    updated, update = fitted.update(later)
    assert updated.spec.dense == ("x", "x:missing") and (update.dense_from, update.dense_to) == (1, 2)
    assert updated.apply(later).dense[:, 1].tolist() == [0.0, 1.0, 0.0]


def test_a_constant_column_is_zero_until_it_varies() -> None:
    fitted = fit(case(x={}), "y", table(x=[0.1] * 7))
    assert fitted.numeric[0].scale == 0
    assert fitted.apply(table(x=[0.1, 9.0, -9.0])).dense.tolist() == [[0.0]] * 3
    updated, update = fitted.update(table(x=[1.0, 2.0, 3.0]))
    assert update.columns[0].was_constant and updated.apply(table(x=[3.0])).dense[0, 0] > 1
    kept, unchanged = updated.update(table(x=[5.0, 5.0]))
    assert kept == updated and unchanged.is_identity


def test_an_update_keeps_the_fill_and_ignores_a_jump_that_weights_can_not_express() -> None:
    fitted = fit(case(x={}), "y", table(x=[1.0, 2.0, 3.0]))
    updated, _ = fitted.update(table(x=[11.0, 12.0, 16.0]))
    assert (updated.numeric[0].fill, updated.numeric[0].mean) == (2.0, 13.0)
    _, far = fitted.update(table(x=[1e9, 2e9]))
    assert far.is_identity
    _, without = fitted.update(table(x=[11.0, 12.0]), restandardise=False)
    assert without.is_identity


def test_a_vocabulary_grows_by_appending_and_the_unknown_is_zero() -> None:
    fitted = fit(case(c={"encode": "embed"}), "y", table(c=["b", "a", "b"]))
    assert fitted.apply(table(c=["a", "b", "z"])).ids[:, 0].tolist() == [1, 2, 0]
    updated, update = fitted.update(table(c=pa.array(["z", "a", None])))
    assert isinstance(updated.ids[0], Vocabulary) and updated.ids[0].values == ("a", "b", "z", None)
    assert update.tables == (("c", 3, 5),)
    assert updated.apply(table(c=pa.array(["a", "b", "z", None, "q"]))).ids[:, 0].tolist() == [1, 2, 3, 4, 0]


def test_hashing_is_stable_signed_and_has_its_own_id_for_missing() -> None:
    hashing = Hashing("c", 2, 1000)
    values = [f"value {number}" for number in range(2000)]
    ids = hashing.encode(pa.chunked_array([values, [None]], pa.string()))
    assert ids[-1] == 0 and ids[:-1].min() >= 1 and ids.max() <= 2000
    assert ids[:3].tolist() == KNOWN_IDS  # a change of the hash would break every model in production
    assert 900 < int((ids > 1000).sum()) < 1100
    assert Hashing("d", 2, 1000).encode(pa.chunked_array([values])).tolist() != ids[:-1].tolist()
    whole, real = (hashing.encode(pa.chunked_array([[3, 4]], kind)) for kind in (pa.int64(), pa.float64()))
    assert whole.tolist() == real.tolist()


KNOWN_IDS = [438, 1525, 1851]


def test_bins_are_quantiles_of_the_training_part() -> None:
    fitted = fit(case(x={"encode": "bins", "bins": 4}), "y", table(x=np.arange(101.0)))
    ids = fitted.apply(table(x=pa.array([-5.0, 24.0, 25.0, 60.0, 75.0, 1e9, None]))).ids[:, 0]
    assert ids.tolist() == [1, 1, 2, 3, 4, 4, 0]
    assert fitted.spec.ids == (("x", 5, 8),)


def test_a_cross_is_hashed_and_encode_none_is_left_out() -> None:
    cross = {"kind": "cross", "of": ["x", "c"]}
    fitted = fit(case(x={"encode": "none"}, c={"encode": "none"}, k=cross), "y", table(x=[1.0], c=["a"], k=["1|a"]))
    assert fitted.columns == ("k",) and fitted.spec.signed == {"k"}


def test_json_comes_back_exactly() -> None:
    features = {"c": {"encode": "embed"}, "z": {"field": "x", "encode": "bins"}, "h": {"field": "c", "encode": "hash"}}
    rng = np.random.default_rng(1)
    rows = table(x=rng.normal(1e6, 1e-3, 500), z=rng.normal(size=500), c=["ä", "b"] * 250, h=["x", "y"] * 250)
    fitted = fit(case(x={}, **features), "y", rows)
    again = Transforms.from_json(fitted.to_json())
    assert again == fitted and again.to_json() == fitted.to_json()
    np.testing.assert_array_equal(again.apply(rows).dense, fitted.apply(rows).dense)


def test_one_row_is_encoded_as_among_many_rows() -> None:
    rows = table(x=pa.array([1.0, None, 3.5]), c=pa.array(["a", None, "b"]))
    fitted = fit(case(x={}, c={"encode": "embed"}), "y", rows)
    whole = fitted.apply(rows)
    for index in range(3):
        one = fitted.apply(rows.slice(index, 1))
        assert one.dense.tolist() == whole.dense[index : index + 1].tolist()
        assert one.ids.tolist() == whole.ids[index : index + 1].tolist()


def test_an_integer_column_and_an_all_null_one_are_numbers() -> None:
    fitted = fit(case(x={}), "y", table(x=pa.array([1, 2, None], pa.int64())))
    assert fitted.numeric[0].mean == 1.5
    empty = fit(case(x={}), "y", table(x=pa.nulls(3)))
    assert empty.apply(table(x=pa.nulls(2))).dense.tolist() == [[0.0, 1.0]] * 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (table(x=pa.array([], pa.float64())), "zero rows"),
        (table(xx=[1.0]), "no column 'x'.*did you mean 'xx'"),
        (table(x=["a"]), "encode it by embed or hash"),
    ],
)
def test_rows_that_can_not_be_fitted_are_an_error(rows: pa.Table, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit(case(x={}), "y", rows)


def test_features_of_another_objective_stay_out() -> None:
    mine = case(x={"objectives": ["y"]})
    assert [feature.name for feature in transforms.features_of(mine, "y")] == ["x"]
    assert transforms.features_of(mine, "other") == ()
