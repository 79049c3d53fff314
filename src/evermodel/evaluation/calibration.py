"""Calibration: how far scores are from the observed rates. A calibrated score of 0.3 comes true in 30 % of the rows.

Expected calibration error, over M bins of equal width: ECE = Σ_m |B_m| / n · |mean label − mean score|
(Naeini, Cooper & Hauskrecht 2015; Guo et al. 2017, who write accuracy and confidence for the two means).
For more than two classes it is computed on the top class: its score, and whether it is the right one.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BINS: Final = 10


def bin_of(scores: Floats, *, bins: int = BINS) -> NDArray[np.int64]:
    """The bin of each score in [0, 1]: bin m holds (m/M, (m+1)/M], and bin 0 also 0, as in Guo et al."""
    return np.clip(np.ceil(scores * bins).astype(np.int64) - 1, 0, bins - 1)


def reliability(scores: Floats, outcomes: Floats, *, bins: int = BINS) -> tuple[tuple[float, float, int], ...]:
    """(mean score, observed rate, rows) of each bin that holds rows; the points of a reliability diagram."""
    index = bin_of(scores, bins=bins)
    rows = np.bincount(index, minlength=bins)
    mean_score = np.bincount(index, scores, minlength=bins)
    observed = np.bincount(index, outcomes, minlength=bins)
    return tuple(
        (float(mean_score[m] / rows[m]), float(observed[m] / rows[m]), int(rows[m])) for m in np.flatnonzero(rows)
    )


def expected_calibration_error(scores: Floats, outcomes: Floats, *, bins: int = BINS) -> float:
    """ECE of scores[n] in [0, 1] against outcomes[n] of 0 or 1; n ≥ 1."""
    gap = np.bincount(bin_of(scores, bins=bins), outcomes - scores, minlength=bins)
    return float(np.abs(gap).sum() / len(scores))


def top_class(scores: Floats, codes: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """From scores[n, C] and the right classes' codes[n]: the top class's score[n], and 1 or 0[n] for right or wrong."""
    best = scores.argmax(axis=1)
    return scores[np.arange(len(codes)), best], (best == codes).astype(np.float64)
