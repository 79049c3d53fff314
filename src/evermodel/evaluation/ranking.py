"""Ranking metrics, one value for each list. Ties get their expected value over all orders of the tied items.

So a constant score equals a random order, whatever the order of the rows (McSherry & Najork 2008, "Computing
information retrieval performance measures efficiently in the presence of tied scores").

- HR@k: 1 if at least one relevant item is in the first k places, else 0.
- MRR: 1 / place of the first relevant item, over all places.
- NDCG@k: Σ gain / log₂(place + 1) over the first k places, divided by that of the best order; the gain is the label
  itself (Järvelin & Kekäläinen 2002, as in `sklearn.metrics.ndcg_score`).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def catalogue(scores: Floats, codes: Ints, *, k: int) -> dict[str, Floats]:
    """Each row ranks all classes, one of which is right: scores[n, C], codes[n] (≥ C: unknown to the model).

    Returns hr, mrr and ndcg, float64[n] each; 0 for a class that the model doesn't know.
    """
    num_classes = scores.shape[1]
    known = codes < num_classes
    own = scores[np.arange(len(codes)), np.where(known, codes, 0)][:, None]
    above = (scores > own).sum(axis=1)
    tied = (scores == own).sum(axis=1)
    found = _one_relevant(above, tied, k=k, longest=num_classes)
    return {name: np.where(known, values, 0.0) for name, values in found.items()}


def _one_relevant(above: Ints, tied: Ints, *, k: int, longest: int) -> dict[str, Floats]:
    """One relevant item among `tied` equal ones, with `above` better ones."""
    harmonic, discount = _harmonic(longest), _discount(longest, k)
    return {
        "hr": np.clip((k - above) / tied, 0.0, 1.0),
        "mrr": (harmonic[above + tied] - harmonic[above]) / tied,
        "ndcg": (discount[above + tied] - discount[above]) / tied,
    }


def grouped(scores: Floats, labels: Floats, groups: Ints, *, k: int) -> dict[str, Floats]:
    """Rows of one group are one list: scores[n], labels[n] ≥ 0 (relevant above 0), groups[n].

    Returns hr, mrr and ndcg, float64[G'] each, for the G' groups with a relevant row, by ascending group. In the other
    groups no order is better than another.
    """
    if not len(scores):
        return dict.fromkeys(("hr", "mrr", "ndcg"), np.empty(0))
    order = np.lexsort((-scores, groups))
    group, score, label = groups[order], scores[order], labels[order]
    starts_group = np.r_[True, group[1:] != group[:-1]]
    starts_run = starts_group | np.r_[True, score[1:] != score[:-1]]
    group_start, run_start = np.flatnonzero(starts_group), np.flatnonzero(starts_run)
    run_group = (np.cumsum(starts_group) - 1)[run_start]
    above = run_start - group_start[run_group]
    tied = np.diff(np.r_[run_start, len(score)])
    relevant = np.add.reduceat((label > 0).astype(np.int64), run_start)
    num_groups, longest = len(group_start), int(np.diff(np.r_[group_start, len(score)]).max())

    discount = _discount(longest, k)
    gain = np.add.reduceat(label, run_start) / tied * (discount[above + tied] - discount[above])
    reached = _sums(run_group, gain, num_groups)
    best = _best_gain(labels, groups, group_start, discount)

    decisive = np.flatnonzero(relevant > 0)  # the first run of a group with a relevant row decides hr and mrr
    _, first = np.unique(run_group[decisive], return_index=True)
    runs = decisive[first]
    hit = _hit(above[runs], tied[runs], relevant[runs], k)
    reciprocal = _reciprocal(above[runs], tied[runs], relevant[runs])
    return {"hr": hit, "mrr": reciprocal, "ndcg": (reached / np.where(best > 0, best, 1.0))[run_group[runs]]}


def _best_gain(labels: Floats, groups: Ints, group_start: Ints, discount: Floats) -> Floats:
    order = np.lexsort((-labels, groups))
    lengths = np.diff(np.r_[group_start, len(labels)])
    index = np.repeat(np.arange(len(group_start)), lengths)
    place = np.arange(len(labels)) - group_start[index]
    return _sums(index, labels[order] * (discount[place + 1] - discount[place]), len(group_start))


def _hit(above: Ints, tied: Ints, relevant: Ints, k: int) -> Floats:
    """P(a relevant item is in the first k) = 1 − C(tied − relevant, places) / C(tied, places)."""
    places = np.clip(k - above, 0, tied)
    missable = places <= tied - relevant
    safe = np.where(missable, places, 0)
    missed = np.exp(_log_choose(tied - relevant, safe) - _log_choose(tied, safe))
    return np.where(missable, 1.0 - missed, 1.0)


def _reciprocal(above: Ints, tied: Ints, relevant: Ints) -> Floats:
    """Σ_j P(the first relevant is the j-th of the tied) / (above + j), P = C(tied − j, relevant − 1) / C(tied, relevant)."""
    run = np.repeat(np.arange(len(tied)), tied)
    place = np.arange(len(run)) - np.repeat(np.cumsum(tied) - tied, tied) + 1
    rest, others = tied[run] - place, relevant[run] - 1
    possible = rest >= others
    chance = np.exp(_log_choose(np.where(possible, rest, others), others) - _log_choose(tied, relevant)[run])
    return _sums(run, np.where(possible, chance, 0.0) / (above[run] + place), len(tied))


def _sums(index: Ints, values: Floats, size: int) -> Floats:
    return np.asarray(np.bincount(index, values, minlength=size), dtype=np.float64)


def _log_choose(n: Ints, k: Ints) -> Floats:
    return np.asarray(gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0), dtype=np.float64)


def _harmonic(longest: int) -> Floats:
    """Σ 1/place over the first i places, i = 0..longest."""
    return np.cumsum(np.r_[0.0, 1.0 / np.arange(1, longest + 1)])


def _discount(longest: int, k: int) -> Floats:
    """Σ 1/log₂(place + 1) over the first i places and at most k, i = 0..longest."""
    places = np.arange(1, longest + 1)
    return np.cumsum(np.r_[0.0, np.where(places <= k, 1.0 / np.log2(places + 1.0), 0.0)])
