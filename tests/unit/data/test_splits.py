"""Cuts are times: rows of one time stay together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evermodel.data.splits import newest_share


def test_the_newest_share() -> None:
    times = np.array([5, 1, 4, 2, 3, 6, 7, 8, 9, 10])
    assert newest_share(times, 0.3) == 8
    assert newest_share(times, 0.0) == 11
    assert newest_share(times, 1.0) == 1
    assert newest_share(np.array([], dtype=np.int64), 0.5) == 0
    assert newest_share(np.array([1, 2, 2, 2]), 0.25) == 2, "ties go together"
    assert newest_share(np.array([1, 1, 1, 2]), 0.5) == 2, "and never take all"
    with pytest.raises(ValueError, match=r"share = 1.5"):
        newest_share(times, 1.5)


@given(st.lists(st.integers(0, 50), min_size=1), st.floats(0, 1))
def test_the_newer_side_has_its_share_and_never_all_rows(values: list[int], share: float) -> None:
    times = np.array(values)
    newer = times >= newest_share(times, share)
    assert newer.sum() >= round(share * len(times)) or times[~newer].min() == times[~newer].max() == times.min()
    if len(set(values)) > 1 and share < 1:
        assert not newer.all()
