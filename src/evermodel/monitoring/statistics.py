"""Distances and tests between a reference and a window. Pure numpy and scipy; nothing here knows of a use case.

Two kinds. *On counts* (`psi`, `jensen_shannon`, `hellinger`, `chi2`, `ks`, `wasserstein`, `homogeneity`): arrays of
counts [..., k] over the same k bins, any leading axes at once; bins empty on both sides count for nothing, so columns
with fewer bins are padded with zeros. *On samples* (`ks_2samp`, `anderson_darling`, …): two arrays of values, exact.

A side without rows gives nan: nothing is known. None of these counts as "no drift".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Floats = NDArray[np.float64]
Counts = NDArray[np.int64] | NDArray[np.float64]

P_VALUES = frozenset({"ks", "chi2"})  # drifted where the score is below the threshold; elsewhere where it is not below


def shares(counts: Counts) -> Floats:
    """Counts [..., k] → shares; nan where a row has no counts."""
    total = counts.sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Floats = counts / total
    return result


def _filled(share: Floats) -> Floats:
    """Zero shares become 1e-4, or a millionth of the smallest share where that is no larger (Evidently's rule)."""
    smallest = np.where(share > 0, share, np.inf).min(axis=-1, keepdims=True)
    filler = np.where(smallest <= 1e-4, smallest / 1e6, 1e-4)
    return np.where(share == 0, filler, share)


def psi(reference: Counts, current: Counts) -> Floats:
    """Population stability index Σ (p − q) ln(p / q), empty bins filled as Evidently does; 0 and up."""
    p, q = shares(reference), shares(current)
    both_empty = (p == 0) & (q == 0)
    p, q = _filled(p), _filled(q)
    terms = np.where(both_empty, 0.0, (p - q) * np.log(p / q))
    return np.asarray(terms.sum(axis=-1), dtype=np.float64)


def jensen_shannon(reference: Counts, current: Counts) -> Floats:
    """Jensen–Shannon distance: the root of the divergence in nats, so 0 to √ln 2 = 0.833 (as scipy's, base e)."""
    p, q = shares(reference), shares(current)
    middle = (p + q) / 2
    divergence = (special.rel_entr(p, middle) + special.rel_entr(q, middle)).sum(axis=-1) / 2
    return np.asarray(np.sqrt(np.maximum(divergence, 0.0)), dtype=np.float64)


def hellinger(reference: Counts, current: Counts) -> Floats:
    """Hellinger distance √(1 − Σ √(p q)), 0 to 1."""
    overlap = np.sqrt(shares(reference) * shares(current)).sum(axis=-1)
    return np.asarray(np.sqrt(1.0 - np.clip(overlap, 0.0, 1.0)), dtype=np.float64)


def chi2(reference: Counts, current: Counts) -> Floats:
    """p of the current counts under the reference's shares (Pearson, k − 1 degrees of freedom), as Evidently's.

    The reference counts as exactly known; a value that it never saw makes p 0. `homogeneity` assumes neither.
    """
    total = current.sum(axis=-1, keepdims=True)
    expected = shares(reference) * total
    used = (reference > 0) | (current > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(used, (current - expected) ** 2 / expected, 0.0)
    p = special.chdtrc(np.maximum(used.sum(axis=-1) - 1, 1), terms.sum(axis=-1))
    return np.asarray(np.where(total[..., 0] > 0, p, np.nan), dtype=np.float64)


def ks(reference: Counts, current: Counts) -> Floats:
    """p of the two-sample Kolmogorov–Smirnov test on binned counts (asymptotic).

    The distance is taken at the bins' edges only, so it is at most the exact one, and p at least the exact p;
    `ks_2samp` is the exact test on the values.
    """
    n, m = reference.sum(axis=-1), current.sum(axis=-1)
    distance = np.abs(np.cumsum(shares(reference), axis=-1) - np.cumsum(shares(current), axis=-1)).max(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = n * m / (n + m)
    return np.asarray(special.kolmogorov(distance * np.sqrt(effective)), dtype=np.float64)


def wasserstein(
    reference: Counts, current: Counts, *, edges: Floats, under: Floats, over: Floats, scale: Floats
) -> Floats:
    """First Wasserstein distance ∫ |F − G| over `scale` (the reference's standard deviation, at least 0.001).

    `edges` [..., k − 1] separate the k bins (repeat the last one to pad); the first and last of them bound the
    reference. Between edges both distribution functions are taken as straight; beyond the bounds the area is exact:
    `under` and `over` [...] are how far current values lie below and above them, in the mean over all values.
    """
    gap = np.cumsum(shares(reference), axis=-1)[..., :-1] - np.cumsum(shares(current), axis=-1)[..., :-1]
    gap = np.abs(gap)
    area = ((gap[..., 1:] + gap[..., :-1]) / 2 * np.diff(edges, axis=-1)).sum(axis=-1)
    return np.asarray((area + under + over) / np.maximum(scale, 0.001), dtype=np.float64)


def homogeneity(first: Counts, second: Counts, *, expected: float = 2.0) -> tuple[Floats, Floats]:
    """Pearson's test that two rows of counts [..., k] come from one distribution: (statistic, degrees of freedom).

    Both sides are taken as samples. Bins where the smaller side expects fewer than `expected` rows are pooled into
    one (and that, where it stays small, into the fullest), so that rare bins don't make the statistic explode.
    0 degrees of freedom: nothing can be told.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    n, m = a.sum(axis=-1, keepdims=True), b.sum(axis=-1, keepdims=True)
    pooled = a + b
    with np.errstate(divide="ignore", invalid="ignore"):
        smaller = np.minimum(n, m) / (n + m)
    sparse = pooled * smaller < expected
    rest_a = np.where(sparse, a, 0.0).sum(axis=-1, keepdims=True)
    rest_b = np.where(sparse, b, 0.0).sum(axis=-1, keepdims=True)
    too_small = (rest_a + rest_b) * smaller < expected
    fullest = np.arange(a.shape[-1]) == pooled.argmax(axis=-1)[..., None]
    a = np.where(sparse, 0.0, a) + np.where(fullest & too_small, rest_a, 0.0)
    b = np.where(sparse, 0.0, b) + np.where(fullest & too_small, rest_b, 0.0)
    a = np.concatenate([a, np.where(too_small, 0.0, rest_a)], axis=-1)
    b = np.concatenate([b, np.where(too_small, 0.0, rest_b)], axis=-1)
    used = a + b > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = (np.sqrt(m / n) * a - np.sqrt(n / m) * b) ** 2 / (a + b)
    statistic = np.where(used, terms, 0.0).sum(axis=-1)
    freedom = np.where((n[..., 0] > 0) & (m[..., 0] > 0), np.maximum(used.sum(axis=-1) - 1, 0), 0)
    return np.where(freedom > 0, statistic, 0.0), freedom.astype(np.float64)


def p_value(statistic: Floats | float, freedom: Floats | float) -> Floats:
    """Upper tail of chi²; 1 where there is no degree of freedom."""
    tail = special.chdtrc(np.maximum(freedom, 1), statistic)
    return np.asarray(np.where(np.asarray(freedom) > 0, tail, 1.0), dtype=np.float64)


ON_COUNTS: dict[str, Callable[[Counts, Counts], Floats]] = {
    "psi": psi,
    "jensen_shannon": jensen_shannon,
    "hellinger": hellinger,
    "chi2": chi2,
    "ks": ks,
}


# exact, on two samples ----------------------------------------------------------------------------------------------


def _samples(reference: Floats, current: Floats) -> tuple[Floats, Floats]:
    """In float64, so that sums of float16 values don't overflow; missing values left out."""
    first, second = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    return first[np.isfinite(first)], second[np.isfinite(second)]


def ks_2samp(reference: Floats, current: Floats) -> tuple[float, float]:
    """Kolmogorov–Smirnov, two samples: (statistic, p)."""
    result = stats.ks_2samp(*_samples(reference, current))
    return float(result.statistic), float(result.pvalue)


def anderson_darling(reference: Floats, current: Floats) -> tuple[float, float]:
    """Anderson–Darling, two samples, midranks (Scholz & Stephens 1987): (statistic, p); p is within [0.001, 0.25]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns where p is outside its table: the bounds above say so
        result = stats.anderson_ksamp(list(_samples(reference, current)))
    return float(result.statistic), float(result.pvalue)


def cramer_von_mises(reference: Floats, current: Floats) -> tuple[float, float]:
    """Cramér–von Mises, two samples (Anderson 1962): (statistic, p)."""
    result = stats.cramervonmises_2samp(*_samples(reference, current))
    return float(result.statistic), float(result.pvalue)


def mann_whitney(reference: Floats, current: Floats) -> tuple[float, float]:
    """Mann–Whitney U of the reference against the current sample, two-sided: (U, p)."""
    result = stats.mannwhitneyu(*_samples(reference, current), alternative="two-sided")
    return float(result.statistic), float(result.pvalue)


def welch_t(reference: Floats, current: Floats) -> tuple[float, float]:
    """Welch's t of the difference of means, unequal variances, two-sided: (t, p)."""
    result = stats.ttest_ind(*_samples(reference, current), equal_var=False)
    return float(result.statistic), float(result.pvalue)
