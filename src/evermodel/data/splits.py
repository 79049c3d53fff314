"""Splits by time. A cut is a time; rows at it or after it are on the newer side, so rows of one time stay together."""

from __future__ import annotations

import numpy as np

from evermodel.columns import Ints


def newest_share(times: Ints, share: float) -> int:
    """The cut (µs) with about `share` of the rows at it or after it.

    Rows of one time stay together, so the newer side may hold more than its share. It never takes all rows if there are
    two different times. A share of 0, or no rows: a cut after every row. ValueError if the share isn't in 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share = {share} is not between 0 and 1")
    ordered = np.sort(np.asarray(times, dtype=np.int64))
    newer = round(share * len(ordered))
    if newer == 0:
        return int(ordered[-1]) + 1 if len(ordered) else 0
    cut = int(ordered[len(ordered) - newer])
    if share < 1 and cut == ordered[0] and cut != ordered[-1]:
        return int(ordered[np.searchsorted(ordered, cut, side="right")])
    return cut
