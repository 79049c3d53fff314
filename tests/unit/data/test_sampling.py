"""Samples are seeded, without replacement, and have the stated probabilities (bounds at five standard errors)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evermodel.data.sampling import reservoir, simple, stratified, weighted


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.integers(0, 30), st.integers(0, 40), st.integers(0, 3))
def test_a_simple_sample(rows: int, size: int, seed: int) -> None:
    drawn = simple(rows, size, generator(seed))
    assert len(drawn) == min(rows, size)
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    assert drawn.tolist() == simple(rows, size, generator(seed)).tolist()


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60), st.integers(0, 70), st.integers(0, 3))
def test_strata_keep_their_shares(values: list[str], size: int, seed: int) -> None:
    strata = np.array(values)
    drawn = stratified(strata, size, generator(seed))
    assert len(drawn) == len(set(drawn.tolist())) == min(size, len(values))
    for value in set(values):
        exact = min(size, len(values)) * np.mean(strata == value)
        assert abs(np.sum(strata[drawn] == value) - exact) < 1


def test_strata_are_drawn_within_at_random() -> None:
    strata = np.repeat(["a", "b"], [90, 10])
    counts = np.zeros(100)
    for seed in range(400):
        counts[stratified(strata, 20, generator(seed))] += 1
    assert np.all(np.abs(counts / 400 - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 400))


def test_rows_are_drawn_in_proportion_to_weights() -> None:
    weights = np.array([1.0, 3.0, 0.0, 6.0])
    counts = np.zeros(4)
    for seed in range(3000):
        counts[weighted(weights, 1, generator(seed))] += 1
    assert counts[2] == 0
    assert np.all(np.abs(counts / 3000 - weights / 10) < 5 * np.sqrt(0.25 / 3000))
    assert weighted(weights, 9, generator()).tolist() == [0, 1, 3]
    with pytest.raises(ValueError, match="not negative"):
        weighted(np.array([-1.0]), 1, generator())


def test_a_reservoir_is_a_simple_sample_of_a_stream() -> None:
    counts = np.zeros(10)
    for seed in range(3000):
        counts[reservoir(iter(range(10)), 3, generator(seed))] += 1
    assert np.all(np.abs(counts / 3000 - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 3000))
    assert reservoir(iter("ab"), 3, generator()) == ["a", "b"]
