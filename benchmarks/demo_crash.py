"""The whole demo is killed at five random moments; run again, it goes on and ends as if nothing had happened.

    python -m benchmarks.demo_crash [--seed N] [--kills 5]

SIGKILL goes to the demo's whole process group: pipelines, steps and serving die with it. At the end: one champion, a
whole audit chain, one finished run for each key, every event once, and the same champion as a demo that nobody killed
would have (the same bundle digests as the last line of a run without kills: --kills 0 prints them).
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.compute as pc

from evermodel import bundle
from evermodel.workflow import Project

LONGEST = 900.0


def live(project: Path, *, port: int, kill_after: float | None) -> bool:
    """Run the demo; True where it came to its end, False where it was killed first."""
    command = [sys.executable, "-m", "evermodel.cli", "demo", "--port", str(port)]
    process = subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait(timeout=kill_after or LONGEST) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False


def problems(project: Project) -> list[str]:
    """What doesn't hold of one champion, one run a key, events once, whole chain."""
    _, case = project.find("restaurants")
    ledger = project.ledger()
    found = ledger.verify_chain(case.name)
    champion = ledger.champion(case.name)
    if champion is None:
        return [*found, "no champion"]
    for part in champion.bundles:
        bundle.verify(part)
    keys = [run.key for run in ledger.runs(case.name)]
    if len(keys) != len(set(keys)):
        found.append("a retrain key has two runs")
    found += [f"run {run.key} never ended" for run in ledger.runs(case.name) if run.finished is None]
    for source in case.sources:
        table = project.log(case).read(source.name)
        pairs = pc.binary_join_element_wise(table["request_id"], table["restaurant_id"], "|")
        if pc.count_distinct(pairs).as_py() != table.num_rows:
            found.append(f"{source.name}: an event is there twice")
        print(f"{source.name}: {table.num_rows:,} events")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=5)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "evermodel.cli", "init", "shop"], cwd=folder, check=True, capture_output=True
        )
        project = Path(folder) / "shop"
        for number in range(arguments.kills):
            moment = rng.uniform(10, 110)
            ended = live(project, port=8131 + number, kill_after=moment)
            print(f"{'ended before' if ended else 'killed after'} {moment:.0f} s", flush=True)
            time.sleep(3)
        ended = live(project, port=8140, kill_after=None)
        opened = Project.open(project)
        found = problems(opened) if ended else ["the last run didn't end well"]
        champion = opened.ledger().champion("restaurants")
        if champion is not None:
            print("champion", champion.id, {part.objective: part.digest[:12] for part in champion.bundles})
    print("\n".join(found) or "one champion, one run a key, every event once")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
