"""Baselines answer by what they may know, in a model's shapes."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from evermodel.evaluation import baselines, metrics
from evermodel.evaluation.baselines import Baseline
from evermodel.use_case import Evaluation, PredictionTask, UseCase
from tests.support.use_cases import make_use_case

from . import small

TRAIN, GATE = small.table(2000, seed=1), small.table(500, seed=2, first=2000)

BASELINES = ["random", "majority", "popularity", "transition", "boosting"]
ROW_NUMBER = {"row_number": {"start": "2026-01-01T00:00:00Z", "step": "1h"}}


def catalogue(*, key: str = "item", **evaluation: Any) -> UseCase:
    """The next item of a list of all items. `key`: the column of the entity's key, and the field of the list."""
    return make_use_case(
        name="steps",
        framing="ranking",
        entities={"restaurant": {"key": key, "type": "int"}},
        fields={"item": "int", "next": {"type": "int", "nullable": True}},
        source={"name": "steps", "event_time": ROW_NUMBER},
        other_sources={"restaurants": {"event_time": ROW_NUMBER, "fields": {key: "int"}}},
        predict={"item": "next", "catalogue": "restaurants"},
        labels={"next": {"type": "category", "delay": "1d"}},
        features={"item": {"encode": "embed"}},
        evaluation={"metric": "hr", "k": 1, "baselines": BASELINES, **evaluation},
        monitoring={"window": "7d"},
    )


def made(
    case: UseCase, train: pa.Table = TRAIN, gate: pa.Table = GATE, metric: str = "accuracy", **more: object
) -> dict[str, Baseline]:
    settings = {"fitted": False, "rng": np.random.default_rng(0)} | more
    found = baselines.baselines(case, train, gate, metric=metric, **settings)  # type: ignore[arg-type]
    return {baseline.name: baseline for baseline in found}


def steps(items: list[int], following: list[int | None]) -> pa.Table:
    labels = [None if value is None else str(value) for value in following]
    return pa.table(
        {"item": items, "next": pa.array(following, pa.int64()), "label:next": pa.array(labels, pa.string())}
    )


def with_evaluation(**evaluation: object) -> UseCase:
    return small.case(evaluation=Evaluation(**({"metric": "accuracy"} | evaluation)))  # type: ignore[arg-type]


def test_random_is_seeded_and_knows_nothing() -> None:
    first, again = made(small.case())["random"].scores, made(small.case())["random"].scores
    other = made(small.case(), rng=np.random.default_rng(1))["random"].scores
    assert first is not None and again is not None and other is not None
    assert (first == again).all() and (first != other).any()
    assert 0.4 < roc_auc_score(GATE["label:sold"], first) < 0.6


def test_majority_is_the_training_rows_answer() -> None:
    train = TRAIN.filter(
        pa.array(TRAIN["label:sold"].to_numpy() + np.arange(2000) % 3 > 0.5)
    )  # two thirds are positive
    base = train["label:sold"].to_numpy().mean()
    assert base > 0.5
    assert set(made(small.case(), train)["majority"].scores) == {1.0}
    assert set(made(small.case(), train, metric="log_loss")["majority"].scores) == {base}


def test_unknown_labels_teach_nothing() -> None:
    labels = pa.array([1.0] * 10 + [None] * 1990)
    train = TRAIN.set_column(TRAIN.column_names.index("label:sold"), "label:sold", labels)
    assert set(made(small.case(), train, metric="log_loss")["majority"].scores) == {1.0}
    nothing = TRAIN.set_column(TRAIN.column_names.index("label:sold"), "label:sold", pa.nulls(2000, pa.float64()))
    assert made(small.case(), nothing) == {}


def test_boosting_learns_and_only_where_asked() -> None:
    found = made(small.case(), fitted=True)["boosting"].scores
    assert roc_auc_score(GATE["label:sold"], found) > 0.85
    assert "boosting" not in made(small.case())
    one = TRAIN.filter(pa.compute.equal(TRAIN["label:sold"], 1.0))
    assert made(small.case(), one, fitted=True)["boosting"].note == "the training rows hold one class only"


def test_boosting_sees_only_features() -> None:
    """A column of the row that knows the label is no feature: with noise for features, boosting stays at chance."""
    rng = np.random.default_rng(0)
    blind = [rows.set_column(3, "x", pa.array(rng.normal(size=rows.num_rows))) for rows in (TRAIN, GATE)]
    blind = [rows.append_column("sold", rows["label:sold"]) for rows in blind]
    assert roc_auc_score(GATE["label:sold"], made(small.case(), *blind, fitted=True)["boosting"].scores) < 0.6


def test_boosting_takes_texts_and_nulls() -> None:
    case = small.case(features=(small.case().features[0], small.case().features[1].model_copy(update={"name": "shop"})))
    gate = GATE.set_column(2, "shop", pa.array(["new", None] * 250))
    assert np.isfinite(made(case, TRAIN, gate, fitted=True)["boosting"].scores).all()


def test_numbers_get_a_regressor_and_the_mean() -> None:
    label = small.case().labels[0].model_copy(update={"type": "number"})
    case = small.case(
        framing="regression",
        labels=(label,),
        evaluation=Evaluation(metric="mae", baselines=("mean", "boosting", "random")),
    )
    train, gate = (rows.set_column(5, "label:sold", pa.array(10 * rows["x"].to_numpy())) for rows in (TRAIN, GATE))
    found = made(case, train, gate, metric="mae", fitted=True)
    assert found["mean"].scores[0] == pytest.approx(train["label:sold"].to_numpy().mean())
    assert np.abs(found["boosting"].scores - gate["label:sold"].to_numpy()).mean() < 1
    assert set(found["random"].scores) <= set(train["label:sold"].to_pylist())


def test_a_heuristic_is_a_column_or_a_function_of_what_is_known() -> None:
    gate = GATE.set_column(3, "x", pa.array([None, 0.25] * 250))
    column = made(with_evaluation(heuristic="x"), gate=gate)["heuristic"].scores
    assert column[1] == 0.25
    assert column[0] == TRAIN["label:sold"].to_numpy().mean(), "a missing value says what is known of all"
    function = made(with_evaluation(heuristic="tests.unit.evaluation.behaviour_seam:by_sign"))["heuristic"].scores
    assert (function == (GATE["x"].to_numpy() > 0)).all()


def test_a_text_heuristic_of_a_binary_label_is_its_positive_value() -> None:
    label = small.case().labels[0].model_copy(update={"positive": "north"})
    case = small.case(labels=(label,), evaluation=Evaluation(metric="accuracy", heuristic="shop"))
    assert made(case)["heuristic"].scores.tolist() == [float(shop == "north") for shop in GATE["shop"].to_pylist()]


def test_transitions_go_by_the_item_stood_at_and_fall_back_on_popularity() -> None:
    train = steps([1, 1, 1, 2, 2, 9], [7, 7, 8, 8, 8, None])
    gate = steps([1, 2, 5], [None, None, None])
    found = made(catalogue(), train, gate, metric="hr")
    assert found["transition"].classes == ("7", "8")
    assert found["transition"].scores.argmax(axis=1).tolist() == [0, 1, 1]
    assert found["transition"].scores[0] == pytest.approx([(2 + 0.4) / 4, (1 + 0.6) / 4])
    assert found["popularity"].scores == pytest.approx(np.tile([0.4, 0.6], (3, 1)))
    assert found["majority"].scores == pytest.approx(found["popularity"].scores)
    assert found["random"].scores.shape == (3, 2)


def test_a_transition_never_reads_the_label() -> None:
    """predict.item is the label's own column here: answering by it would score 1."""
    train = steps([1, 2] * 50, [7, 8] * 50)
    gate = steps([1, 2] * 50, [8, 7] * 50)
    known = metrics.sample_of(
        catalogue(),
        gate,
        made(catalogue(), train, gate, metric="hr")["transition"].scores,
        classes=("7", "8"),
    )
    assert metrics.figure("hr", known, k=1) == 0.0


def test_the_labels_own_column_is_never_an_answer() -> None:
    """Neither as the item that a row stands at, nor as a heuristic."""
    train, gate = steps([1, 2] * 50, [7, 8] * 50), steps([1, 2] * 50, [8, 7] * 50)
    assert made(catalogue(key="next"), train, gate, metric="hr")["transition"].scores is None
    heuristic = catalogue(heuristic="next")
    assert made(heuristic, train, gate, metric="hr")["heuristic"].note == "'next' is known only after the answer"


def test_popularity_of_lists_is_the_items_rate_and_of_a_new_item_the_mean() -> None:
    case = small.case(
        framing="ranking",
        predict=PredictionTask(source="visits", group="shop", item="shop"),
        evaluation=Evaluation(metric="ndcg", baselines=("popularity", "transition")),
    )
    train = (
        TRAIN.slice(0, 4)
        .set_column(2, "shop", pa.array(["a", "a", "b", "b"]))
        .set_column(5, "label:sold", pa.array([1.0, 1, 0, 0]))
    )
    gate = GATE.slice(0, 3).set_column(2, "shop", pa.array(["a", "b", "c"]))
    found = made(case, train, gate, metric="ndcg")
    assert found["popularity"].scores == pytest.approx([2.5 / 3, 0.5 / 3, 0.5])
    assert found["transition"].scores is None
    assert "catalogue" in found["transition"].note


def test_too_many_classes_are_not_boosted() -> None:
    following = list(range(baselines.MOST_CLASSES + 1))
    found = made(catalogue(), steps(following, following), steps([1], [1]), metric="hr", fitted=True)["boosting"]
    assert found.scores is None
    assert "51 classes" in found.note
