"""Splits by time. A cut is a time: rows at it or after it are on the newer side, so equal times are never torn apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def newest_share(times: Int64, share: float) -> int:
    """The cut (µs) that leaves about `share` of the rows at it or after it.

    Rows of one time stay together, so the newer side may hold more than its share; it never takes all where there are
    two times to tell apart. A share of 0, or no rows: a cut after every row. ValueError where the share isn't in 0..1.
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


def by_time(times: Int64, cuts: Sequence[int]) -> tuple[Mask, ...]:
    """`len(cuts) + 1` masks, oldest part first; `cuts` ascending (µs)."""
    if list(cuts) != sorted(cuts):
        raise ValueError(f"cuts {list(cuts)} are not in order of time")
    part = np.searchsorted(np.asarray(cuts, dtype=np.int64), times, side="right")
    return tuple(part == index for index in range(len(cuts) + 1))
