"""`python -m evermodel.retraining.scheduler NAME…`: runs the monitoring pipeline of each use case once.

It monitors the newest whole window, by the profile's launcher. A repeated run changes nothing, so a schedule may be denser
than the windows. The scheduler reads the clock, unless `--now` gives the time.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime

from evermodel import clock
from evermodel import use_case as use_cases
from evermodel.errors import EvermodelError
from evermodel.execution.launch import launch
from evermodel.ledger import Ledger
from evermodel.parsing import parse_time
from evermodel.profile import Profile, load_profile


def run_monitoring(profile: Profile, name: str, *, now: datetime) -> str:
    """Run the monitoring pipeline over the newest whole window; returns the decision as one line."""
    uri = name if "/" in name else str(profile.root / "use_cases" / f"{name}.yaml")
    case = use_cases.load(uri)
    ledger = Ledger(profile.ledger_url)
    if ledger.champion(case.name) is None:
        return f"{case.name}: no champion to monitor yet"
    parameters = {"use_case": uri, "now": now.isoformat()}
    launch(profile, "monitoring", parameters, log_name=f"monitoring-{case.name}-{now:%Y%m%dT%H%M%S}")
    decisions = [decision for decision in ledger.decisions(case.name) if decision.at == now]
    if not decisions:
        return f"{case.name}: no decision"
    return f"{case.name}: {decisions[-1].action}: {decisions[-1].reason}"


def main(arguments: list[str]) -> int:
    """0 if every use case was monitored; 1 if one failed, after the others were monitored."""
    parser = argparse.ArgumentParser(prog="python -m evermodel.retraining.scheduler", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help="a use case: name or path")
    parser.add_argument(
        "--now", default="", help="the time to use as the present; default: the clock's, in whole minutes"
    )
    given = parser.parse_args(arguments)
    # whole minutes: a scheduler that restarts this at once starts the same run
    now = parse_time(given.now) if given.now else clock.now().replace(second=0, microsecond=0)
    failed = 0
    for name in given.names:
        try:
            sys.stderr.write(run_monitoring(load_profile(), name, now=now) + "\n")
        except EvermodelError as error:
            sys.stderr.write(f"error: {name}: {error}\n")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
