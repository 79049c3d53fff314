"""Distances and tests between the counts of a reference and of a window, in numpy and scipy alone.

Arguments are arrays of counts [..., k] over the same k bins, with any leading axes. Bins that are empty on both sides
have no effect, so columns with fewer bins are padded with zeros. If a side has no rows, the result is nan: unknown,
which is not "no drift".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Counts = NDArray[np.int64] | NDArray[np.float64]

P_VALUES = frozenset({"ks", "chi2"})  # drifted if below the threshold; the others if not below it


def shares(counts: Counts) -> Floats:
    """Counts [..., k] → shares; nan if a row has no counts."""
    total = counts.sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Floats = counts / total
    return result


def _fill_zeros(share: Floats) -> Floats:
    """Zero shares become 1e-4, or a millionth of the smallest share if that is at most 1e-4 (Evidently's rule)."""
    smallest = np.where(share > 0, share, np.inf).min(axis=-1, keepdims=True)
    filler = np.where(smallest <= 1e-4, smallest / 1e6, 1e-4)
    return np.where(share == 0, filler, share)


def psi(reference: Counts, current: Counts) -> Floats:
    """Population stability index Σ (p − q) ln(p / q), with empty bins filled as Evidently does; at least 0."""
    p, q = shares(reference), shares(current)
    both_empty = (p == 0) & (q == 0)
    p, q = _fill_zeros(p), _fill_zeros(q)
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

    The reference is taken as exact, so a value that it doesn't have makes p 0. `homogeneity` assumes neither.
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

    The distance is taken at the bins' edges only, so it is at most the exact one, and p is at least the exact p.
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

    `edges` [..., k − 1] separate the k bins (pad by repeating the last one); the first and last bound the reference.
    Between edges both distribution functions are taken as linear. Beyond the bounds the area is exact: `under` and
    `over` [...] are how far the current values lie below and above them, as a mean over all values.
    """
    gap = np.cumsum(shares(reference), axis=-1)[..., :-1] - np.cumsum(shares(current), axis=-1)[..., :-1]
    gap = np.abs(gap)
    area = ((gap[..., 1:] + gap[..., :-1]) / 2 * np.diff(edges, axis=-1)).sum(axis=-1)
    return np.asarray((area + under + over) / np.maximum(scale, 0.001), dtype=np.float64)


def homogeneity(first: Counts, second: Counts, *, expected: float = 2.0) -> tuple[Floats, Floats]:
    """Pearson's test that two rows of counts [..., k] come from one distribution: (statistic, degrees of freedom).

    Both sides are taken as samples. Bins in which the smaller side expects fewer than `expected` rows are pooled into
    one (and that one, if it is still too small, into the fullest), because rare bins would inflate the statistic.
    0 degrees of freedom: the test is undefined.
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
    """Upper tail of chi²; 1 without degrees of freedom."""
    tail = special.chdtrc(np.maximum(freedom, 1), statistic)
    return np.asarray(np.where(np.asarray(freedom) > 0, tail, 1.0), dtype=np.float64)


ON_COUNTS: dict[str, Callable[[Counts, Counts], Floats]] = {
    "psi": psi,
    "jensen_shannon": jensen_shannon,
    "hellinger": hellinger,
    "chi2": chi2,
    "ks": ks,
}
