"""Baselines use only what is known at request time, and score in a model's shapes."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from evermodel.evaluation import baselines, metrics
from evermodel.evaluation.baselines import Baseline
from evermodel.evaluation.samples import sample_of
from evermodel.use_case import BASELINES, Evaluation, PredictionTask, UseCase
from tests.support.use_cases import make_use_case
from tests.unit.evaluation import small

TRAIN, GATE = small.table(2000, seed=1), small.table(500, seed=2, first=2000)

CATALOGUE_BASELINES = ["random", "majority", "popularity", "transition", "boosting"]
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
        evaluation={"metric": "hr", "k": 1, "baselines": CATALOGUE_BASELINES, **evaluation},
        monitoring={"window": "7d"},
    )


def scored(
    case: UseCase, train: pa.Table = TRAIN, gate: pa.Table = GATE, metric: str = "accuracy", **more: object
) -> dict[str, Baseline]:
    settings = {"fitted": False, "rng": np.random.default_rng(0)} | more
    found = baselines.score_baselines(case, train, gate, metric=metric, **settings)  # type: ignore[arg-type]
    return {baseline.name: baseline for baseline in found}


def values(baseline: Baseline) -> NDArray[np.float64]:
    assert baseline.scores is not None, baseline.reason
    return baseline.scores.values


def steps(items: list[int], following: list[int | None]) -> pa.Table:
    labels = [None if value is None else str(value) for value in following]
    return pa.table(
        {"item": items, "next": pa.array(following, pa.int64()), "label:next": pa.array(labels, pa.string())}
    )


def with_evaluation(**evaluation: object) -> UseCase:
    return small.case(evaluation=Evaluation(**({"metric": "accuracy"} | evaluation)))  # type: ignore[arg-type]


def test_random_is_seeded_and_independent_of_the_label() -> None:
    first, again = values(scored(small.case())["random"]), values(scored(small.case())["random"])
    other = values(scored(small.case(), rng=np.random.default_rng(1))["random"])
    assert (first == again).all() and (first != other).any()
    assert 0.4 < roc_auc_score(GATE["label:sold"], first) < 0.6


def test_majority_is_the_training_rows_answer() -> None:
    train = TRAIN.filter(
        pa.array(TRAIN["label:sold"].to_numpy() + np.arange(2000) % 3 > 0.5)
    )  # two thirds are positive
    base = train["label:sold"].to_numpy().mean()
    assert base > 0.5
    assert set(values(scored(small.case(), train)["majority"])) == {1.0}
    assert set(values(scored(small.case(), train, metric="log_loss")["majority"])) == {base}


def test_unknown_labels_are_left_out() -> None:
    labels = pa.array([1.0] * 10 + [None] * 1990)
    train = TRAIN.set_column(TRAIN.column_names.index("label:sold"), "label:sold", labels)
    assert set(values(scored(small.case(), train, metric="log_loss")["majority"])) == {1.0}
    nothing = TRAIN.set_column(TRAIN.column_names.index("label:sold"), "label:sold", pa.nulls(2000, pa.float64()))
    assert scored(small.case(), nothing) == {}


def test_boosting_learns_and_only_if_fitted() -> None:
    found = values(scored(small.case(), fitted=True)["boosting"])
    assert roc_auc_score(GATE["label:sold"], found) > 0.85
    assert "boosting" not in scored(small.case())
    one = TRAIN.filter(pa.compute.equal(TRAIN["label:sold"], 1.0))
    assert scored(small.case(), one, fitted=True)["boosting"].reason == "the training rows hold one class only"


def test_boosting_sees_only_features() -> None:
    """A column of the row that knows the label is no feature: with noise for features, boosting stays at chance."""
    rng = np.random.default_rng(0)
    blind = [rows.set_column(3, "x", pa.array(rng.normal(size=rows.num_rows))) for rows in (TRAIN, GATE)]
    blind = [rows.append_column("sold", rows["label:sold"]) for rows in blind]
    assert roc_auc_score(GATE["label:sold"], values(scored(small.case(), *blind, fitted=True)["boosting"])) < 0.6


def test_boosting_takes_texts_and_nulls() -> None:
    case = small.case(features=(small.case().features[0], small.case().features[1].model_copy(update={"name": "shop"})))
    gate = GATE.set_column(2, "shop", pa.array(["new", None] * 250))
    assert np.isfinite(values(scored(case, TRAIN, gate, fitted=True)["boosting"])).all()


def test_numbers_get_a_regressor_and_the_mean() -> None:
    label = small.case().labels[0].model_copy(update={"type": "number"})
    case = small.case(
        framing="regression",
        labels=(label,),
        evaluation=Evaluation(metric="mae", baselines=("mean", "boosting", "random")),
    )
    train, gate = (rows.set_column(5, "label:sold", pa.array(10 * rows["x"].to_numpy())) for rows in (TRAIN, GATE))
    found = scored(case, train, gate, metric="mae", fitted=True)
    assert values(found["mean"])[0] == pytest.approx(train["label:sold"].to_numpy().mean())
    assert np.abs(values(found["boosting"]) - gate["label:sold"].to_numpy()).mean() < 1
    assert set(values(found["random"])) <= set(train["label:sold"].to_pylist())


def test_a_heuristic_is_a_column_or_a_function_of_known_columns() -> None:
    gate = GATE.set_column(3, "x", pa.array([None, 0.25] * 250))
    column = values(scored(with_evaluation(heuristic="x"), gate=gate)["heuristic"])
    assert column[1] == 0.25
    assert column[0] == TRAIN["label:sold"].to_numpy().mean(), "a missing value gets the mean"
    function = values(scored(with_evaluation(heuristic="tests.unit.evaluation.custom_functions:by_sign"))["heuristic"])
    assert (function == (GATE["x"].to_numpy() > 0)).all()


def test_a_text_heuristic_of_a_binary_label_is_its_positive_value() -> None:
    label = small.case().labels[0].model_copy(update={"positive": "north"})
    case = small.case(labels=(label,), evaluation=Evaluation(metric="accuracy", heuristic="shop"))
    assert values(scored(case)["heuristic"]).tolist() == [float(shop == "north") for shop in GATE["shop"].to_pylist()]


def test_transitions_use_the_current_item_and_fall_back_on_popularity() -> None:
    train = steps([1, 1, 1, 2, 2, 9], [7, 7, 8, 8, 8, None])
    gate = steps([1, 2, 5], [None, None, None])
    found = scored(catalogue(), train, gate, metric="hr")
    assert found["transition"].scores is not None and found["transition"].scores.classes == ("7", "8")
    assert values(found["transition"]).argmax(axis=1).tolist() == [0, 1, 1]
    assert values(found["transition"])[0] == pytest.approx([(2 + 0.4) / 4, (1 + 0.6) / 4])
    assert values(found["popularity"]) == pytest.approx(np.tile([0.4, 0.6], (3, 1)))
    assert values(found["majority"]) == pytest.approx(values(found["popularity"]))
    assert values(found["random"]).shape == (3, 2)


def test_a_transition_never_reads_the_label() -> None:
    """predict.item is the label's own column here: using it would score 1."""
    train = steps([1, 2] * 50, [7, 8] * 50)
    gate = steps([1, 2] * 50, [8, 7] * 50)
    transition = scored(catalogue(), train, gate, metric="hr")["transition"]
    assert transition.scores is not None
    assert metrics.figure("hr", sample_of(catalogue(), gate, transition.scores), k=1) == 0.0


def test_the_labels_own_column_is_never_used() -> None:
    """Neither as the current item, nor as a heuristic."""
    train, gate = steps([1, 2] * 50, [7, 8] * 50), steps([1, 2] * 50, [8, 7] * 50)
    assert scored(catalogue(key="next"), train, gate, metric="hr")["transition"].scores is None
    heuristic = catalogue(heuristic="next")
    assert scored(heuristic, train, gate, metric="hr")["heuristic"].reason == "'next' is unknown at request time"


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
    found = scored(case, train, gate, metric="ndcg")
    assert values(found["popularity"]) == pytest.approx([2.5 / 3, 0.5 / 3, 0.5])
    assert found["transition"].scores is None
    assert "catalogue" in found["transition"].reason


def test_too_many_classes_are_not_boosted() -> None:
    following = list(range(baselines.MOST_CLASSES + 1))
    found = scored(catalogue(), steps(following, following), steps([1], [1]), metric="hr", fitted=True)["boosting"]
    assert found.scores is None
    assert "51 classes" in found.reason


def test_every_baseline_of_the_use_case_file_can_be_scored() -> None:
    """The list of names and the functions can't differ."""
    case = with_evaluation(baselines=tuple(BASELINES))
    assert set(scored(case, fitted=True)) == set(BASELINES)
