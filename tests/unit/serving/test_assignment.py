import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evermodel.errors import ServingError
from evermodel.serving.assignment import assign

UNITS = [f"user-{i}" for i in range(5_000)]


def assign_all(shares: dict[str, float], salt: str = "s") -> list[str]:
    return [assign(unit, shares, salt=salt).arm for unit in UNITS]


def test_units_are_split_by_share_and_the_propensity_is_the_share() -> None:
    shares = {"champion": 0.7, "canary": 0.2, "b": 0.1}
    assigned = assign_all(shares)
    for arm, share in shares.items():
        assert assigned.count(arm) / len(UNITS) == pytest.approx(share, abs=0.026)  # four standard errors
    assert assign("user-1", shares, salt="s").propensity == shares[assign("user-1", shares, salt="s").arm]


def test_an_assignment_never_changes() -> None:
    assigned = "".join(assign(f"user-{i}", {"a": 0.5, "b": 0.5}, salt="v1").arm for i in range(24))
    assert assigned == "babbaaabaaaabbabaaaaaaaa"


def test_an_arm_whose_share_grows_only_gains_units() -> None:
    before, after = assign_all({"champion": 0.9, "canary": 0.1}), assign_all({"champion": 0.7, "canary": 0.3})
    moved = {(old, new) for old, new in zip(before, after, strict=True) if old != new}
    assert moved == {("champion", "canary")}


def test_a_new_arm_moves_no_unit_between_the_others() -> None:
    before, after = assign_all({"a": 0.5, "b": 0.5}), assign_all({"a": 0.5, "b": 0.5, "c": 0.5})
    assert {new for old, new in zip(before, after, strict=True) if old != new} == {"c"}


def test_another_salt_is_an_independent_assignment() -> None:
    first, second = assign_all({"a": 0.5, "b": 0.5}, "one"), assign_all({"a": 0.5, "b": 0.5}, "two")
    same = sum(x == y for x, y in zip(first, second, strict=True)) / len(UNITS)
    assert same == pytest.approx(0.5, abs=0.03)


@given(st.text(max_size=30), st.floats(1e-6, 1))
@settings(max_examples=100, deadline=None)
def test_an_arm_without_a_share_gets_no_unit(unit: str, share: float) -> None:
    assignment = assign(unit, {"champion": share, "off": 0.0}, salt="s")
    assert (assignment.arm, assignment.propensity) == ("champion", 1.0)


def test_no_positive_share_is_an_error() -> None:
    with pytest.raises(ServingError, match="no arm has a positive share"):
        assign("u", {"champion": 0.0}, salt="s")
