"""Kills the small loop by SIGKILL at each of its durable steps, runs it again, and checks that nothing is lost or doubled.

This is a process of its own, so that it can fork: it imports all modules of a run and runs nothing itself; each run is a
child. `python crashes.py ROOT [--every N] [--workers N]` prints one JSON object: `steps`, a list of {step, name, seconds,
problems} in order, one for each durable step at which a run was killed, and `safeguards`: by name, the problems that show
if it is switched off.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq

from evermodel import bundle, storage, workflow
from evermodel.code_version import code_version
from evermodel.data import events, ingest
from evermodel.ledger import lease
from evermodel.reports import evaluation
from evermodel.use_case import UseCase
from evermodel.workflow import Project
from tests.reliability import small_loop
from tests.reliability.small_loop import BATCHES, BROKEN
from tests.support.pump_use_case import LIVE, NAME, PER_DAY
from tests.support.waiting import scaled

#: Imported before the first run, so that no run imports them again.
HEAVY = ("matplotlib.figure", "sklearn.metrics", "torch")
IMPORTED = ("evermodel", "torch", "sklearn", "scipy", "matplotlib", "jinja2", "sympy")
EVENTS = PER_DAY * 5
LIMIT_SECONDS = 100  # a run takes one or two
Setting = Callable[[], None]


def _nothing() -> None:
    pass


# runs -----------------------------------------------------------------------------------------------------------------


def run_once(root: Path, *, kill_at: int | None = None, safeguard_off: Setting = _nothing, drawn: bool = False) -> int:
    """One run of the loop in a child; returns its exit status, negative if a signal ended it. Its output goes to a file."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        with (root / "output.txt").open("ab") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        signal.alarm(int(scaled(LIMIT_SECONDS)))
        os.environ["EVERMODEL_FAILPOINT"] = str(kill_at or "")
        os.environ["EVERMODEL_FAILPOINT_LOG"] = str(root / "killed.txt")
        if not drawn:
            evaluation.draw_evaluation = lambda report: {}  # it has no durable step, and takes half of a run's time
        safeguard_off()
        small_loop.run_loop(Project.open(root))
        (root / "modules.json").write_text(json.dumps(sorted(sys.modules)))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def kill_and_rerun(root: Path, step: int, digests: dict[str, str]) -> dict[str, Any] | None:
    """Kill a run at a step, run it again and check the result; None if there is no such step."""
    begun = time.monotonic()
    small_loop.write_project(root)
    if (status := run_once(root, kill_at=step)) == 0:
        shutil.rmtree(root)
        return None
    problems = [] if status == -signal.SIGKILL else [f"the first run ended with {status}: {_output(root)}"]
    if (status := run_once(root)) != 0:
        problems.append(f"run again it ended with {status}: {_output(root)}")
    problems += check(root, digests)
    name = (root / "killed.txt").read_text().strip() if (root / "killed.txt").exists() else ""
    if not problems:
        shutil.rmtree(root)
    return {"step": step, "name": name, "seconds": round(time.monotonic() - begun, 2), "problems": problems}


def _output(root: Path) -> str:
    return (root / "output.txt").read_text()[-2000:]


# what must hold -------------------------------------------------------------------------------------------------------


def check(root: Path, digests: dict[str, str]) -> list[str]:
    """The faults of a project after its run, in words."""
    problems: list[str] = []
    for find in (_events, _answers, partial(_ledger, digests=digests), _files):
        try:
            problems += [f"{name}: {text}" for name, text in find(Project.open(root)).items()]
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
    return problems


def _differing(**pairs: tuple[object, object]) -> dict[str, str]:
    return {name: f"{got!r}, not {wanted!r}" for name, (got, wanted) in pairs.items() if got != wanted}


def _events(project: Project) -> dict[str, str]:
    """No event is lost or doubled: in = applied + duplicate + rejected, over batches that overlap."""
    _, case = project.find(NAME)
    log = project.log(case)
    table = log.read("readings")
    rejects = [pq.read_metadata(path).num_rows for path in storage.list_files(storage.join(log.root, "_rejects"))]
    again = [
        workflow.ingest(project, NAME, data_dir=project.profile.root / "data" / batch, now=LIVE[-1].end)[0]
        for batch in BATCHES
    ]
    return _differing(
        events=(table.num_rows, EVENTS),
        event_ids=(len(set(table["id"].to_pylist())), EVENTS),
        sequence=(sorted(table["ingest_seq"].to_pylist()), list(range(EVENTS))),
        batches=(len(log.commits("readings")), len(BATCHES)),
        rejects=(sum(rejects), BROKEN),
        applied_again=(sum(report.applied + report.rejected for report in again), 0),
        counted=([r.rows_in for r in again], [r.applied + r.duplicate + r.rejected for r in again]),
    )


def _answers(project: Project) -> dict[str, str]:
    """Every row was predicted once, by one champion each day."""
    parts = storage.list_files(project.profile.place(NAME, "requests"), suffix=".parquet")
    tables = [storage.read_table(path) for path in parts]
    ids = [name for table in tables for name in table["prediction_id"].to_pylist()]
    releases = {name for table in tables for name in table["release"].to_pylist()}
    first = project.ledger().promotions(NAME)[0].release.id
    return _differing(
        answers=(len(ids), PER_DAY * len(LIVE)), answer_ids=(len(set(ids)), PER_DAY * len(LIVE)), by=(releases, {first})
    )


def _ledger(project: Project, *, digests: dict[str, str]) -> dict[str, str]:
    """One champion, the same as of an undisturbed run; one finished run for each key; no held lease."""
    ledger = project.ledger()
    promotions = ledger.promotions(NAME)
    runs = ledger.runs(NAME)
    decided = [decision for decision in ledger.decisions(NAME) if decision.action == "retrain"]
    champion = ledger.champion(NAME)
    assert champion is not None, "there is no champion"
    manifests = [bundle.open_bundle(part).manifest for part in champion.bundles]
    return _differing(
        chain=(ledger.verify_chain(NAME), []),
        versions=([row.version for row in promotions], [1, 2]),
        champion=({part.objective: part.digest for part in champion.bundles}, digests),
        follows=(champion.parent, promotions[0].release.id),
        keys=(len({run.key for run in runs}), len(runs)),
        runs=([run.state for run in runs], ["promoted", "promoted"]),
        decisions=([decision.retrain_key for decision in decided], [runs[-1].key]),
        trained_on=({(m.trigger, m.windows[0].start) for m in manifests}, {(LIVE[-1], LIVE[0].start)}),
        leases=(ledger.leases(NAME), []),
        windows=([report.window for report in ledger.monitoring_reports(NAME)], list(LIVE)),
        alerts=({alert.window for alert in ledger.alerts(NAME)}, {LIVE[-1]}),
        errors=(ledger.errors(NAME), []),
    )


def _files(project: Project) -> dict[str, str]:
    """Each file can be read to its end, except the left-overs of writes, whose names begin with a dot."""
    torn = {}
    for path in storage.list_files(project.profile.state_uri):
        try:
            if path.endswith(".parquet"):
                pq.read_table(path)
            elif path.endswith(".json"):
                json.loads(storage.read_text(path))
        except Exception as error:
            torn[path] = str(error)
    releases = project.ledger().releases(NAME)
    for part in (part for release in releases for part in release.bundles):
        bundle.verify(part)
    return torn


def digests_of(root: Path) -> dict[str, str]:
    champion = Project.open(root).ledger().champion(NAME)
    assert champion is not None, _output(root)
    return {part.objective: part.digest for part in champion.bundles}


# safeguards, switched off ------------------------------------------------------------------------------------------------------


def _commit_before_data() -> None:
    """Make a batch's commit first and write its rows after it; die between them in the second batch."""
    waiting: list[tuple[str, Any]] = []
    write, create = storage.write_table, storage.create_bytes

    def write_later(uri: str, table: Any) -> str:
        if "/events/" not in uri or "_rejects" in uri:
            return write(uri, table)
        waiting.append((uri, table))
        scratch = f"{uri}.scratch"
        digest = write(scratch, table)
        storage.delete_file(scratch)
        return digest

    def create_then_write(uri: str, data: bytes) -> None:
        create(uri, data)
        if uri.endswith("_commits/00000001.json"):
            os.kill(os.getpid(), signal.SIGKILL)
        while waiting:
            write(*waiting.pop())

    events.storage.write_table, events.storage.create_bytes = write_later, create_then_write  # type: ignore[assignment]


def _write_in_place() -> None:
    """Write a file in place, without a temporary file; die half-way in the second commit."""

    def put(uri: str, data: bytes) -> None:
        path = Path(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        if uri.endswith("_commits/00000001.json"):
            path.write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        path.write_bytes(data)

    storage.write_bytes = storage.create_bytes = put  # type: ignore[assignment]


def _batches_without_a_name() -> None:
    """Give a batch a new id each time, and rows no key; die after the second batch."""
    take = ingest.ingest
    create = storage.create_bytes

    def ingest_anew(case: UseCase, *values: Any, **named: Any) -> Any:
        without_key = tuple(source.model_copy(update={"unique": ()}) for source in case.sources)
        return take(case.model_copy(update={"sources": without_key}), *values, **named, batch_id=uuid4().hex)

    def create_and_die(uri: str, data: bytes) -> None:
        create(uri, data)
        if uri.endswith("_commits/00000001.json"):
            os.kill(os.getpid(), signal.SIGKILL)

    ingest.ingest = ingest_anew  # type: ignore[assignment]
    storage.create_bytes = create_and_die  # type: ignore[assignment]


def _leases_of_the_dead() -> None:
    """Keep the lease of a dead owner; die once, when training has begun."""
    lease.is_gone = lambda owner: False  # type: ignore[assignment]
    pack = bundle.pack
    died = Path(os.environ["EVERMODEL_FAILPOINT_LOG"]).with_name("died")

    def pack_or_die(*values: Any, **named: Any) -> Any:
        if not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return pack(*values, **named)

    bundle.pack = pack_or_die  # type: ignore[assignment]


SAFEGUARDS: dict[str, Setting] = {
    "data is written before its commit": _commit_before_data,
    "a file is renamed into place": _write_in_place,
    "a batch is known by its id and a row by its key": _batches_without_a_name,
    "a dead owner's lease is released": _leases_of_the_dead,
}


def without(root: Path, switch_off: Setting, digests: dict[str, str]) -> list[str]:
    """The problems of a run that is killed, and run again, without a safeguard."""
    small_loop.write_project(root)
    status = run_once(root, safeguard_off=switch_off)
    assert status == -signal.SIGKILL, f"the run was not killed, it ended with {status}: {_output(root)}"
    again = run_once(root, safeguard_off=switch_off)
    return ([f"run again it ended with {again}"] if again else []) + check(root, digests)


# all of it ------------------------------------------------------------------------------------------------------------


def worker(root: Path, steps: range, digests: dict[str, str], out: Path) -> None:
    """Kill at each of the steps until there is no such step; writes a JSON line for each."""
    with out.open("w") as file:
        for step in steps:
            result = kill_and_rerun(root / f"step{step}", step, digests)
            if result is None:
                return
            file.write(json.dumps(result) + "\n")


def import_modules(root: Path) -> None:
    """Import the modules that a run imported, so that the children have them."""
    for name in json.loads((root / "modules.json").read_text()):
        if name not in sys.modules and name.split(".")[0] in IMPORTED:
            try:
                importlib.import_module(name)
            except ImportError:
                continue  # made at run time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--every", type=int, default=1, help="kill at every N-th durable step only")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    root: Path = options.root
    begun = time.monotonic()
    digests = run_undisturbed(root / "whole")
    import_modules(root / "whole")
    gc.collect()
    gc.freeze()  # shared with the children, as long as no collection touches it
    steps = kill_at_all_steps(root, digests, every=options.every, workers=options.workers)
    safeguards = {name: without(root / f"off{n}", off, digests) for n, (name, off) in enumerate(SAFEGUARDS.items())}
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = {"seconds": round(time.monotonic() - begun, 1), "cpu_seconds": round(used.ru_utime + used.ru_stime, 1)}
    print(json.dumps({"steps": steps, "safeguards": safeguards, **spent}))


def run_undisturbed(root: Path) -> dict[str, str]:
    """Run the loop without a crash, and check it; returns the digests of its champion."""
    for name in HEAVY:
        importlib.import_module(name)
    code_version()  # once: it is a part of the digests that are compared
    small_loop.write_project(root)
    status = run_once(root, drawn=True)
    assert status == 0, _output(root)
    digests = digests_of(root)
    problems = check(root, digests)
    assert not problems, problems
    return digests


def kill_at_all_steps(root: Path, digests: dict[str, str], *, every: int, workers: int) -> list[dict[str, Any]]:
    """The results of `kill_and_rerun` at each durable step, in order; the steps are shared among worker processes."""
    children = []
    for number in range(workers):
        child = os.fork()
        if child == 0:
            steps = range(1 + number * every, 100_000, workers * every)
            try:
                worker(root, steps, digests, root / f"worker{number}.jsonl")
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    lines = [line for number in range(workers) for line in (root / f"worker{number}.jsonl").read_text().splitlines()]
    return sorted((json.loads(line) for line in lines), key=lambda result: result["step"])


if __name__ == "__main__":
    main()
