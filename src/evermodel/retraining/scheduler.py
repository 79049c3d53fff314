"""`python -m evermodel.retraining.scheduler NAME…`: what a scheduler runs. Each use case's monitoring pipeline, once.

It looks at the last whole monitoring window, by the profile's launcher. Looking twice changes nothing, so a schedule may
be denser than the windows. A scheduler is where the clock is read; it can be told the time as well (`--now`).
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


def tick(profile: Profile, name: str, *, now: datetime) -> str:
    """Run the monitoring pipeline over the newest whole window; one line of what came of it."""
    uri = name if "/" in name else str(profile.root / "use_cases" / f"{name}.yaml")
    case = use_cases.load(uri)
    ledger = Ledger(profile.ledger_url)
    if ledger.champion(case.name) is None:
        return f"{case.name}: no champion to monitor yet"
    parameters = {"use_case": uri, "now": now.isoformat()}
    launch(profile, "monitoring", parameters, log_name=f"monitoring-{case.name}-{now:%Y%m%dT%H%M%S}")
    decided = [one for one in ledger.decisions(case.name) if one.at == now]
    return f"{case.name}: {decided[-1].action}: {decided[-1].reason}" if decided else f"{case.name}: no decision"


def main(arguments: list[str]) -> int:
    """0 where every use case was looked at; 1 where one couldn't be, after the others were."""
    parser = argparse.ArgumentParser(prog="python -m evermodel.retraining.scheduler", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help="a use case: name or path")
    parser.add_argument("--now", default="", help="the time to take for the present; default: the clock's, in minutes")
    given = parser.parse_args(arguments)
    # whole minutes: a scheduler that starts this again at once asks for the same run
    now = parse_time(given.now) if given.now else clock.now().replace(second=0, microsecond=0)
    failed = 0
    for name in given.names:
        try:
            sys.stderr.write(tick(load_profile(), name, now=now) + "\n")
        except EvermodelError as error:
            sys.stderr.write(f"error: {name}: {error}\n")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
