"""Which worker of pytest-xdist gets which tests: files stay whole, and only one worker at a time has a Ray.

Two Rays that start at the same time may choose the same ports. So all files with tests of the mark `ray` are one unit
of work; no worker waits for another. `--dist loadgroup` does the same, but adds a suffix to every test's id, so that
the id no longer selects the test.
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
    """Reads the file's text: the process that distributes the tests has not imported them."""
    return "pytest.mark.ray" in file.read_text()


class RayScheduling(LoadFileScheduling):
    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        self._root = config.rootpath

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid, self._root)
