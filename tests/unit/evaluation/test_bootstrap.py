"""The paired bootstrap: resamples are what they say, intervals cover as often as they should."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from evermodel.evaluation import bootstrap, metrics
from evermodel.evaluation.metrics import Sample
from evermodel.records import Interval

RNG = np.random.default_rng(2)
N = 200
Y = (RNG.random(N) < 0.35).astype(float)
P = np.clip(0.3 * Y + 0.7 * RNG.random(N), 0, 1).round(2)


def interval(name: str, ours: Sample, theirs: Sample, seed: int = 0, **more: float) -> Interval | None:
    settings = {"k": 3, "threshold": 0.5, "resamples": 400, "confidence": 0.95} | more
    return bootstrap.paired(name, ours, theirs, rng=np.random.default_rng(seed), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "score"), [("auc", roc_auc_score), ("average_precision", average_precision_score)])
@pytest.mark.parametrize("rounding", [1, 2, 12])
def test_order_statistics_of_weights_are_scikit_learns(name: str, score: object, rounding: int) -> None:
    known = metrics.sample(P.round(rounding), Y)
    counts = np.vstack([RNG.multinomial(N, np.full(N, 1 / N), size=5), np.ones((1, N))])
    expected = [score(Y, known.scores, sample_weight=weights) for weights in counts]  # type: ignore[operator]
    assert bootstrap.order_statistic(name, known)(counts.astype(float)) == pytest.approx(expected)


def test_a_resample_of_one_class_is_undefined() -> None:
    counts = np.zeros((1, N))
    counts[0, Y == 0] = 1
    assert np.isnan(bootstrap.order_statistic("auc", metrics.sample(P, Y))(counts)).all()


@pytest.mark.parametrize("name", ["accuracy", "f1", "ece", "rmse", "rmsle", "log_loss", "brier", "mae"])
def test_a_linear_resample_is_the_metric_of_the_repeated_rows(name: str) -> None:
    parts = metrics.contributions(name, metrics.sample(P, Y))
    assert parts is not None
    counts = RNG.multinomial(N, np.full(N, 1 / N), size=4)
    expected = [metrics.metric(name, np.repeat(P, row), np.repeat(Y, row)) for row in counts]
    assert bootstrap.linear_statistic(parts)(counts.astype(float)) == pytest.approx(expected)


def test_macro_f1_resamples_its_classes() -> None:
    matrix, was = RNG.dirichlet(np.ones(3), N), np.array(["a", "b", "c"])[RNG.integers(0, 3, N)]
    parts = metrics.contributions("f1_macro", metrics.sample(matrix, was, classes=("a", "b", "c")))
    assert parts is not None
    counts = RNG.multinomial(N, np.full(N, 1 / N), size=3)
    expected = [
        metrics.metric("f1_macro", np.repeat(matrix, row, axis=0), np.repeat(was, row), classes=("a", "b", "c"))
        for row in counts
    ]
    assert bootstrap.linear_statistic(parts)(counts.astype(float)) == pytest.approx(expected)


def test_counts_are_whole_resamples() -> None:
    chunks = list(bootstrap.counts_of(300, 2000, np.random.default_rng(0)))
    counts = np.concatenate(chunks)
    assert len(chunks) > 1
    assert counts.shape == (2000, 300)
    assert (counts.sum(axis=1) == 300).all()
    assert counts.var() == pytest.approx(1 - 1 / 300, rel=0.02), "the variance of a multinomial count"


def test_the_shortcut_for_few_values_draws_the_same_distribution() -> None:
    values = RNG.choice([-1.0, 0.0, 1.0], size=500, p=[0.1, 0.7, 0.2])
    quick = bootstrap.means(values, resamples=4000, rng=np.random.default_rng(0))
    nudged = values + np.arange(500) * 1e-12  # all distinct: the long way
    long = bootstrap.means(nudged, resamples=4000, rng=np.random.default_rng(1))
    assert quick.mean() == pytest.approx(long.mean(), abs=0.003)
    assert quick.std() == pytest.approx(long.std(), rel=0.05)
    assert quick.std() == pytest.approx(values.std() / np.sqrt(500), rel=0.05)


@pytest.mark.parametrize("name", ["accuracy", "log_loss", "auc", "average_precision", "f1", "ece"])
def test_a_model_against_itself_differs_by_nothing(name: str) -> None:
    same = metrics.sample(P, Y)
    found = interval(name, same, same)
    assert found is not None
    assert (found.point, found.low, found.high) == (0, 0, 0)


@pytest.mark.parametrize("name", ["accuracy", "f1", "auc", "average_precision", "log_loss", "brier", "mae", "rmse"])
def test_more_is_better_whatever_the_metric(name: str) -> None:
    good, bad = metrics.sample(0.8 * Y + 0.1, Y), metrics.sample(1 - P, Y)
    found = interval(name, good, bad)
    turned = interval(name, bad, good)
    assert found is not None and turned is not None
    assert found.low > 0 > turned.high
    assert found.low <= found.point <= found.high
    assert turned.point == pytest.approx(-found.point)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    ours, theirs = metrics.sample(P, Y), metrics.sample(1 - P, Y)
    assert interval("log_loss", ours, theirs) == interval("log_loss", ours, theirs)
    assert interval("log_loss", ours, theirs) != interval("log_loss", ours, theirs, seed=1)


def test_the_pairing_counts() -> None:
    """Two models that err on the same rows differ surely; unpaired, the noise of the rows would hide it."""
    rng = np.random.default_rng(9)
    noise = rng.normal(0, 5, 400)
    labels = np.zeros(400)
    ours, theirs = metrics.sample(np.abs(noise), labels), metrics.sample(np.abs(noise) + 0.2, labels)
    found = interval("mae", ours, theirs)
    assert found is not None
    assert found.low == pytest.approx(0.2)
    assert found.high == pytest.approx(0.2)


@pytest.mark.parametrize("name", ["accuracy", "auc", "brier"])
def test_ninety_five_percent_intervals_cover_about_as_often(name: str) -> None:
    """The truth is the difference on 200,000 rows; 200 data sets of 300 rows, fixed seed: 95 % ± 3 standard errors."""

    def drawn(num_rows: int, rng: np.random.Generator) -> tuple[Sample, Sample]:
        chance = rng.uniform(0.05, 0.95, num_rows)
        labels = (rng.random(num_rows) < chance).astype(float)
        noisy = np.clip(chance + rng.normal(0, 0.2, num_rows), 0, 1)
        return metrics.sample(chance, labels), metrics.sample(noisy, labels)

    rng = np.random.default_rng(17)
    ours, theirs = drawn(200_000, rng)
    truth = metrics.sign(name) * (metrics.figure(name, ours) - metrics.figure(name, theirs))  # type: ignore[operator]
    covered = 0
    for seed in range(200):
        found = interval(name, *drawn(300, rng), seed=seed)
        assert found is not None
        covered += found.low <= truth <= found.high
    assert 0.90 <= covered / 200 <= 0.995


def test_a_ranking_resamples_lists_not_rows() -> None:
    groups = np.repeat(np.arange(20), 10)
    labels = np.tile(np.r_[1.0, np.zeros(9)], 20)
    scores = RNG.random(200)
    parts = metrics.contributions("ndcg", metrics.sample(scores, labels, groups=groups))
    assert parts is not None
    assert parts.units == 20
    found = interval(
        "mrr", metrics.sample(scores, labels, groups=groups), metrics.sample(-scores, labels, groups=groups)
    )
    assert found is not None
    assert found.low < found.point < found.high


def test_what_cannot_be_known_is_none() -> None:
    ones = metrics.sample(P, np.ones(N))
    assert interval("auc", ones, ones) is None
    assert interval("brier", metrics.sample(P * 2, Y), metrics.sample(P, Y)) is None
    rare = np.zeros(N)
    rare[0] = 1  # a third of the resamples hold no positive: the rest is still most of them
    assert interval("auc", metrics.sample(P, rare), metrics.sample(1 - P, rare)) is not None
