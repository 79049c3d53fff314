"""The example runs, and its loop reacts to the change: it waits for enough rows, retrains, promotes and recovers."""

import re
import runpy

import pytest

from tests.support import ROOT


@pytest.mark.slow
def test_the_example_detects_the_change_and_recovers(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "loop.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    days = [re.match(r"(Jan \d\d): auc (\d\.\d+); (keep|retrain): (.*)", line) for line in lines]
    found = [(day[1], float(day[2]), day[3]) for day in days if day]
    assert [(day, action) for day, _, action in found] == [
        ("Jan 05", "keep"),
        ("Jan 06", "keep"),
        ("Jan 07", "retrain"),
        ("Jan 08", "keep"),
    ]
    before, changed, _, after = (value for _, value, _ in found)
    assert before > 0.85 and changed < 0.75 and after > 0.8
    challengers = [line.split()[2] for line in lines if line.lstrip().startswith("challenger")]
    assert challengers == ["promote:", "promote:"]
