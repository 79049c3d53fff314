"""The paired percentile bootstrap of a difference of two models on the same rows (Efron & Tibshirani 1993, ch. 13).

A resample draws the units (rows, or the lists of a ranking) with replacement, the same for both models. The metrics
are functions of unit counts, so a resample is a row of counts, and no model scores again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evermodel.evaluation import metrics
from evermodel.evaluation.metrics import Contributions
from evermodel.evaluation.samples import Sample
from evermodel.records import Interval
from evermodel.use_case import METRICS

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]  # unit counts[b, units] → metric[b]; NaN if undefined
CHUNK: Final = 1 << 18  # counts in memory at once: 2 MB, which fits a CPU cache
FEW: Final = 256  # distinct differences up to which a resample is one multinomial draw


def paired(
    name: str,
    challenger: Sample,
    champion: Sample,
    *,
    k: int,
    threshold: float,
    resamples: int,
    confidence: float,
    rng: np.random.Generator,
) -> Interval | None:
    """Challenger − champion, signed so that more is better. None if the metric is undefined for either."""
    if not METRICS[name].is_mean:
        return _order_interval(name, challenger, champion, resamples=resamples, confidence=confidence, rng=rng)
    settings = {"k": k, "threshold": threshold}
    ours = metrics.contributions(name, challenger, **settings)  # type: ignore[arg-type]
    theirs = metrics.contributions(name, champion, **settings)  # type: ignore[arg-type]
    if ours is None or theirs is None:
        return None
    point = METRICS[name].sign * (ours.figure() - theirs.figure())
    if ours.finish is theirs.finish is metrics.mean:
        draws = means(ours.values[:, 0] - theirs.values[:, 0], resamples=resamples, rng=rng)
    else:
        draws = _differences(linear_statistic(ours), linear_statistic(theirs), ours.units, resamples, rng)
    return _interval(point, METRICS[name].sign * draws, confidence)


def _order_interval(
    name: str, challenger: Sample, champion: Sample, *, resamples: int, confidence: float, rng: np.random.Generator
) -> Interval | None:
    ours, theirs = metrics.figure(name, challenger), metrics.figure(name, champion)
    if ours is None or theirs is None:
        return None
    first, second = order_statistic(name, challenger), order_statistic(name, champion)
    return _interval(ours - theirs, _differences(first, second, len(challenger), resamples, rng), confidence)


def _interval(point: float, draws: Floats, confidence: float) -> Interval | None:
    """Percentiles of the defined draws; None if fewer than half of the draws are defined."""
    defined = draws[np.isfinite(draws)]
    if not np.isfinite(point) or 2 * len(defined) < len(draws):
        return None
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(point=point, low=float(low), high=float(high), level=confidence)


def means(values: Floats, *, resamples: int, rng: np.random.Generator) -> Floats:
    """The mean of each resample of values[n]: float64[resamples].

    If few values are distinct (hit or miss), one multinomial draw gives how often each occurs: the same distribution.
    """
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= FEW:
        drawn = rng.multinomial(len(values), counts / len(values), size=resamples)
        return np.asarray(drawn @ distinct / len(values), dtype=np.float64)
    return np.concatenate([drawn @ values for drawn in counts_of(len(values), resamples, rng)]) / len(values)


def counts_of(units: int, resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """How often each unit is drawn, in chunks of resamples: float64[b, units], each row summing to `units`."""
    chunk = max(1, CHUNK // units)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = rng.integers(0, units, size=(size, units), dtype=np.int64)
        drawn += (np.arange(size) * units)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units).astype(np.float64)


def _differences(first: Statistic, second: Statistic, units: int, resamples: int, rng: np.random.Generator) -> Floats:
    return np.concatenate([first(counts) - second(counts) for counts in counts_of(units, resamples, rng)])


def linear_statistic(parts: Contributions) -> Statistic:
    """The metric of a resample, from its parts."""
    return lambda counts: parts.finish(np.asarray(counts @ parts.values, dtype=np.float64) / parts.units)


def order_statistic(name: str, sample: Sample) -> Statistic:
    """AUC or average precision of weighted rows. The rows are sorted once; a resample is a running sum over the negatives.

    AUC = P(score⁺ > score⁻) + ½ P(score⁺ = score⁻). Average precision = Σ over positives of the precision among all
    rows that score as high or higher, by weight, as scikit-learn's.
    """
    scores, positive = sample.scores.values, sample.labels > 0
    rising = np.argsort(scores, kind="stable")
    right, wrong = rising[positive[rising]], rising[~positive[rising]]
    high, low = scores[right], scores[wrong]
    below, up_to = np.searchsorted(low, high, "left"), np.searchsorted(low, high, "right")
    tied_from = np.searchsorted(high, high, "left")

    def area(counts: Floats) -> Floats:
        weights, passed = counts[:, right], _running(counts[:, wrong])
        won = np.einsum("bp,bp->b", weights, passed[:, below] + passed[:, up_to]) / 2
        return metrics.ratio(won, weights.sum(axis=1) * passed[:, -1])

    def precision(counts: Floats) -> Floats:
        weights, passed = counts[:, right], _running(counts[:, wrong])
        found = _running(weights)
        true, false = found[:, -1:] - found[:, tied_from], passed[:, -1:] - passed[:, below]
        at_score = np.divide(true, true + false, out=np.zeros_like(true), where=true > 0)
        return metrics.ratio(np.einsum("bp,bp->b", weights, at_score), found[:, -1])

    return area if name == "auc" else precision


def _running(weights: Floats) -> Floats:
    """The sum over the first i columns, i = 0..m: float64[b, m + 1]."""
    sums = np.zeros((weights.shape[0], weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums
