"""Ranking metrics against scikit-learn, hand-computed lists, and the mean over all orders of the tied."""

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from evermodel.evaluation import ranking
from evermodel.use_case import metric_names


def test_one_list_by_hand() -> None:
    # places of the relevant ones: 2 and 4
    found = ranking.grouped(np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.0, 1, 0, 1]), np.zeros(4, int), k=3)
    best = 1 + 1 / np.log2(3)
    assert found["hr"] == [1.0]
    assert found["mrr"] == [0.5]
    assert found["ndcg"] == pytest.approx([(1 / np.log2(3)) / best])


def test_beyond_k_is_not_found_but_mrr_sees_it() -> None:
    found = ranking.grouped(np.array([0.9, 0.8, 0.7]), np.array([0.0, 0, 1]), np.zeros(3, int), k=2)
    assert (found["hr"], found["mrr"], found["ndcg"]) == ([0.0], pytest.approx([1 / 3]), [0.0])


@pytest.mark.parametrize("k", [1, 3, 10])
def test_grouped_ndcg_is_scikit_learns_with_grades_and_ties(k: int) -> None:
    rng = np.random.default_rng(3)
    scores, labels = rng.integers(0, 4, (40, 8)).astype(float), rng.integers(0, 3, (40, 8)).astype(float)
    groups = np.repeat(np.arange(40), 8)
    shuffled = rng.permutation(320)
    found = ranking.grouped(scores.ravel()[shuffled], labels.ravel()[shuffled], groups[shuffled], k=k)
    has = (labels > 0).any(axis=1)
    expected = [ndcg_score(labels[[i]], scores[[i]], k=k) for i in np.flatnonzero(has)]
    assert found["ndcg"] == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 2, 4, 9])
@pytest.mark.parametrize("labels", [[0, 1, 0, 1, 0], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
def test_ties_count_as_the_mean_over_all_orders_of_the_tied(labels: list[int], k: int) -> None:
    scores = np.array([0.9, 0.5, 0.5, 0.5, 0.5])
    orders = [(0, *tail) for tail in permutations(range(1, 5))]
    ranked = np.array(labels)[np.array(orders)]
    first = np.argmax(ranked > 0, axis=1)
    discounts = np.where(np.arange(1, 6) <= k, 1 / np.log2(np.arange(2, 7)), 0)
    best = (np.sort(labels)[::-1] * discounts).sum()
    found = ranking.grouped(scores, np.array(labels, float), np.zeros(5, int), k=k)
    assert found["hr"] == pytest.approx([(first < k).mean()])
    assert found["mrr"] == pytest.approx([(1 / (first + 1)).mean()])
    assert found["ndcg"] == pytest.approx([(ranked * discounts).sum(axis=1).mean() / best])


def test_a_constant_score_gains_nothing_by_the_order_of_the_rows() -> None:
    labels = np.array([1.0, 0, 0, 0])
    first = ranking.grouped(np.zeros(4), labels, np.zeros(4, int), k=2)
    last = ranking.grouped(np.zeros(4), labels[::-1], np.zeros(4, int), k=2)
    assert first["hr"] == last["hr"] == pytest.approx([0.5])


def test_a_list_with_nothing_to_find_is_left_out() -> None:
    found = ranking.grouped(np.arange(4.0), np.array([0.0, 0, 1, 0]), np.array([7, 7, 9, 9]), k=1)
    assert {name: len(values) for name, values in found.items()} == {"hr": 1, "mrr": 1, "ndcg": 1}


@pytest.mark.parametrize("k", [1, 5])
def test_catalogue_equals_the_same_rows_as_lists(k: int) -> None:
    rng = np.random.default_rng(5)
    scores, codes = rng.integers(0, 5, (60, 12)).astype(float), rng.integers(0, 12, 60)
    relevance = np.eye(12)[codes]
    whole = ranking.catalogue(scores, codes, k=k)
    lists = ranking.grouped(scores.ravel(), relevance.ravel(), np.repeat(np.arange(60), 12), k=k)
    for name in metric_names("ranking"):
        assert whole[name] == pytest.approx(lists[name])


def test_a_class_that_the_model_does_not_know_is_never_found() -> None:
    found = ranking.catalogue(np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([2, 1]), k=2)
    assert {name: values[0] for name, values in found.items()} == {"hr": 0, "mrr": 0, "ndcg": 0}
    assert found["hr"][1] == 1
