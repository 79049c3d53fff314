from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from evermodel.errors import ServingError
from evermodel.serving.schemas import (
    example_row,
    is_rankable,
    parse_row,
    predict_request,
    rank_request,
    request_fields,
    required_fields,
    row_model,
)
from evermodel.use_case import UseCase
from tests.unit.serving.serving_cases import guide, shop, view


def parse_shop_row(raw: dict[str, Any]) -> dict[str, Any]:
    return parse_row(shop(), row_model(shop()), raw)


def parse_failure(raw: dict[str, Any]) -> tuple[str, str | None, str]:
    with pytest.raises(ServingError) as caught:
        parse_shop_row(raw)
    return caught.value.code, caught.value.field, caught.value.reason


def test_a_parsed_row_has_every_name_of_the_source() -> None:
    row = parse_shop_row(view(since="2026-01-31T13:00:00+01:00"))
    assert row["since"] == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert (row["country"], row["stars"], row["position"]) == ("nl", None, None)


def test_only_fields_that_a_prediction_needs_are_required() -> None:
    assert required_fields(shop()) == {"user_id", "item_id", "price", "device"}  # position: serve_as; stars: nullable


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"price": None}, "wrong_type", "row.price"),
        ({"price": "10"}, "wrong_type", "row.price"),
        ({"price": True}, "wrong_type", "row.price"),
        ({"price": -0.01}, "out_of_range", "row.price"),
        ({"price": float("nan")}, "out_of_range", "row.price"),
        ({"price": float("inf")}, "out_of_range", "row.price"),
        ({"price": 10**400}, "wrong_type", "row.price"),
        ({"position": 10}, "out_of_range", "row.position"),
        ({"position": 1.5}, "wrong_type", "row.position"),
        ({"device": "tv"}, "not_allowed", "row.device"),
        ({"country": "be"}, "not_allowed", "row.country"),
        ({"user_id": 7}, "wrong_type", "row.user_id"),
        ({"user_id": "\ud800"}, "wrong_type", "row.user_id"),
        ({"user_id": "u" * 5000}, "out_of_range", "row.user_id"),
        ({"since": "yesterday"}, "out_of_range", "row.since"),
        ({"since": "2026-01-31T12:00:00"}, "wrong_type", "row.since"),
        ({"since": "0001-01-01T00:00:00+14:00"}, "out_of_range", "row.since"),
        ({"prize": 1.0}, "unknown_field", "row.prize"),
    ],
)
def test_a_wrong_value_gets_a_code_and_its_field(change: dict[str, Any], code: str, field: str) -> None:
    assert parse_failure(view(**change))[:2] == (code, field)


def test_a_missing_field_and_a_misspelt_one_are_named() -> None:
    raw = view()
    del raw["device"]
    assert parse_failure(raw)[:2] == ("missing", "row.device")
    assert parse_failure(view(prize=1.0))[2] == "no such field; did you mean 'price'?"


def test_an_integer_too_large_for_the_store_is_refused() -> None:
    case = guide()
    with pytest.raises(ServingError) as caught:
        parse_row(case, row_model(case), {"user": "u", "seen": 2**63})
    assert caught.value.code == "out_of_range"


def test_a_request_has_no_label(electricity: UseCase) -> None:
    assert "class" not in {field.name for field in request_fields(electricity)}
    assert "next" not in {field.name for field in request_fields(guide())}


@pytest.mark.parametrize("case", [shop(), guide()], ids=["items", "classes"])
def test_the_example_row_is_valid(case: UseCase) -> None:
    assert parse_row(case, row_model(case), example_row(case))


def test_a_request_may_have_a_time_only_if_time_is_simulated() -> None:
    request = {"rows": [view()], "at": "2026-01-31T12:00:00Z"}
    assert predict_request(shop(), simulated_time=True).model_validate(request)
    with pytest.raises(ValidationError):
        predict_request(shop()).model_validate(request)


def test_a_ranking_takes_items_or_classes(electricity: UseCase) -> None:
    rank_request(shop()).model_validate({"context": {"user_id": "u"}, "candidates": [{"item_id": "i"}], "k": 1})
    rank_request(guide()).model_validate({"row": {"user": "u", "seen": 1}, "candidates": ["a"]})
    assert not is_rankable(electricity)
