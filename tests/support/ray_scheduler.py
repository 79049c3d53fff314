"""Which worker of pytest-xdist gets which tests: files stay whole, and one worker at a time has a Ray.

Two Rays that start at the same instant may choose the same ports. So the files that start one (their tests have the
mark `ray`) are one unit of work; no worker waits for another. A group of xdist's own (`--dist loadgroup`) would do the
same, but by a suffix on every test's id, which is then no id to run the test by.
"""

from functools import cache
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

GROUP = "the files that start a Ray"


def unit(nodeid: str, root: Path) -> str:
    """The unit of work that a test belongs to."""
    file = nodeid.partition("::")[0]
    return GROUP if starts_ray(root / file) else file


@cache
def starts_ray(file: Path) -> bool:
    """By its text: whoever hands out the tests hasn't imported them."""
    return "pytest.mark.ray" in file.read_text()


class OneRay(LoadFileScheduling):
    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        self._root = config.rootpath

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid, self._root)
