"""Objectives: targets, losses against published formulas, class weights and scores."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from evermodel.training.task import Task, resolve, with_classes
from evermodel.training.torch.losses import loss_function, to_scores
from evermodel.use_case import UseCase

Make = Callable[..., Any]


def loss(name: str, kind: Any, outputs: list[float], targets: list[float], weights: list[float]) -> float:
    task = Task("y", kind, name, 1.0, None)
    found = loss_function(task)(torch.tensor(outputs)[:, None], torch.tensor(targets), torch.tensor(weights))
    return float(found)


def test_losses_are_the_published_formulas() -> None:
    sigmoid = 1 / (1 + math.exp(-0.3))
    assert loss("bce", "binary", [0.3], [1.0], [1.0]) == pytest.approx(-math.log(sigmoid))
    assert loss("focal", "binary", [0.3], [1.0], [1.0]) == pytest.approx(-((1 - sigmoid) ** 2) * math.log(sigmoid))
    assert loss("focal", "binary", [0.3], [0.0], [1.0]) == pytest.approx(
        -(sigmoid**2) * math.log(1 - sigmoid), rel=1e-5
    )
    assert loss("mse", "number", [3.0, 0.0], [1.0, 0.0], [1.0, 1.0]) == pytest.approx(2.0)
    assert loss("mae", "number", [3.0, 0.0], [1.0, 0.0], [1.0, 1.0]) == pytest.approx(1.0)
    assert loss("huber", "number", [3.0, 0.5], [1.0, 0.0], [1.0, 1.0]) == pytest.approx((1.5 + 0.125) / 2)
    assert loss("mse", "number", [3.0, 1.0], [1.0, 0.0], [1.0, 4.0]) == pytest.approx((4 + 4) / 2)


def test_balanced_weights_have_mean_one_and_make_classes_equal(shop: UseCase, rows: Make, vary: Make) -> None:
    table = rows(0, 300)
    for objective in ("bought", "next"):
        task = resolve(vary(shop, objective=objective, class_weight="balanced"), objective, table)
        targets = task.targets(table)
        assert float(targets.weights.mean()) == pytest.approx(1.0, abs=1e-5)
        classes = targets.values.astype(int)
        sums = [float(targets.weights[classes == one].sum()) for one in np.unique(classes)]
        assert sums == pytest.approx([sums[0]] * len(sums), rel=1e-4)
    assert resolve(vary(shop, objective="bought", class_weight=5.0), "bought", table).class_weights == (1.0, 5.0)


def test_scores_are_probabilities_units_and_distributions(shop: UseCase, rows: Make) -> None:
    table = rows(0, 60)
    bought, spent, following = (resolve(shop, name, table) for name in ("bought", "spent", "next"))
    assert to_scores(bought, torch.tensor([[0.0], [2.0]])).values.tolist() == pytest.approx(
        [0.5, 1 / (1 + math.exp(-2))]
    )
    assert to_scores(spent, torch.tensor([[0.7]])).values.tolist() == pytest.approx([7.0])
    assert spent.targets(table).values[0] == pytest.approx(table["label:spent"][0].as_py() / 10)
    assert following.classes == tuple(sorted(set(table["label:next"].to_pylist())))
    shares = to_scores(following, torch.zeros((2, len(following.classes)))).values
    assert shares.shape == (2, len(following.classes)) and shares.sum(axis=1) == pytest.approx([1.0, 1.0])
    assert Task.from_dict(following.to_dict()) == following


def test_unknown_labels_and_unknown_classes_are_no_targets(shop: UseCase, rows: Make) -> None:
    task = resolve(shop, "next", rows(0, 60))
    table = pa.table({"label:next": pa.array(["home", None, "mars", "ulm"])})
    targets = task.targets(table)
    assert targets.rows.tolist() == [0, 3]
    assert [task.classes[code] for code in targets.values] == ["home", "ulm"]
    grown = with_classes(task, table)
    assert grown.classes == (*task.classes, "mars") and grown.targets(table).rows.tolist() == [0, 2, 3]
