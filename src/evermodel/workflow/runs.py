"""A run from its key on: what it is to do is settled once, claimed once, and read back by whoever goes on with it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from evermodel import storage
from evermodel.clock import micros
from evermodel.code_version import code_version
from evermodel.errors import InputError, nearest
from evermodel.ledger import Ledger, lease
from evermodel.records import EvaluationReport, Mode, Plan, Release, TrainingSet, Window, canonical_json, sha256
from evermodel.use_case import UseCase
from evermodel.workflow.project import Project


def plan(
    project: Project,
    reference: str,
    *,
    now: datetime,
    windows: Sequence[Window] = (),
    mode: Mode | None = None,
    trigger: Window | None = None,
    key: str = "",
    reason: str = "",
    parent: str = "champion",
    use_case_digest: str = "",
) -> Plan:
    """Settle what a run is to do. Empty `windows`: all that is new to the champion, or `training.first` without one.

    `parent`, which the run goes on from, is `champion`, `none`, or the id of a release that was promoted once; it is
    the champion that the result is judged against, whatever it came from. Starting over although a champion is there
    is a decision: it needs mode `from_scratch` and a reason.
    """
    uri, case = project.find(reference)
    if use_case_digest not in ("", case.digest()):
        raise InputError(
            f"{uri}: the use case is not the one that the run was started with (digest {use_case_digest[:12]})"
        )
    ledger = project.ledger()
    champion, start = ledger.champion(case.name), _parent(ledger, case, parent)
    chosen: Mode = mode or ("stateful" if start else "from_scratch")
    if start is None and chosen == "stateful":
        raise InputError(f"{case.name}: there is no release to go on from; train with mode from_scratch first")
    if champion is not None and chosen == "from_scratch" and not reason.strip():
        raise InputError(f"{case.name}: starting over although champion {champion.id} is there needs a reason")
    spans = tuple(windows) or _default_windows(case, start or champion, now)
    ids = [release.id if release else None for release in (champion, start)]
    identity = (case.name, ids, [window.span for window in spans], micros(now), chosen)
    return Plan(
        use_case=case.name,
        use_case_uri=uri,
        use_case_digest=case.digest(),
        data_version=project.log(case).data_version(),
        code_version=code_version(),
        windows=spans,
        mode=chosen,
        parent=start,
        champion=champion,
        trigger=trigger,
        now=now,
        key=key or sha256(canonical_json(identity).encode())[:16],
        reason=reason or ("asked for" if champion else "the first champion"),
    )


def _parent(ledger: Ledger, case: UseCase, parent: str) -> Release | None:
    if parent in ("champion", "none"):
        return ledger.champion(case.name) if parent == "champion" else None
    known = {row.release.id: row.release for row in ledger.promotions(case.name)}
    if parent not in known:
        raise InputError(f"{case.name}: no release {parent!r} in the ledger; {nearest(parent, known)}")
    return known[parent]


def _default_windows(case: UseCase, known: Release | None, now: datetime) -> tuple[Window, ...]:
    if known is not None:
        return (Window(start=known.cursor, end=now),)
    if case.training.first is None:
        raise InputError(f"{case.name}: name the windows to train on, or training.first in the use case")
    return (case.training.first,)


def mode_of(text: str) -> Mode | None:
    """A mode as a person writes it; empty: none said."""
    if text not in ("", "stateful", "from_scratch"):
        raise InputError(f"mode {text!r}: write stateful or from_scratch")
    return text or None  # type: ignore[return-value]


def claim(project: Project, plan: Plan, *, owner: str, now: datetime) -> bool:
    """Claim the run's lease and open it: False where a living owner has it, or the key's run is finished."""
    ledger = project.ledger()
    decided = [
        one for one in ledger.decisions(plan.use_case) if one.action == "retrain" and one.retrain_key == plan.key
    ]
    granted = lease.begin(
        ledger,
        plan.key,
        use_case=plan.use_case,
        decision_id=decided[0].id if decided else None,
        owner=owner,
        now=now,
        seconds=project.profile.lease_seconds,
    )
    if granted:  # what isn't granted must leave the plan of the one that was
        storage.write_text(project.turn(plan, "plan.json"), plan.to_json())
    return granted


def read_run(project: Project, reference: str, key: str) -> tuple[Plan, TrainingSet, Release]:
    """What `claim`, `build_training_set` and `train` have left of the run `key`."""
    _, case = project.find(reference)
    home = project.profile.place(case.name, "turns", key)
    if not storage.exists(storage.join(home, "release.json")):
        runs = {
            storage.Uri.parse(uri).parent.name
            for uri in storage.list_files(project.profile.place(case.name, "turns"), suffix="release.json")
        }
        raise InputError(f"{case.name}: no trained run {key!r}; {nearest(key, runs)}")
    plan_text, rows_text, release_text = (
        storage.read_text(storage.join(home, name)) for name in ("plan.json", "training_set.json", "release.json")
    )
    return Plan.from_json(plan_text), TrainingSet.from_json(rows_text), Release.from_json(release_text)


def read_report(release: Release) -> EvaluationReport:
    """The report that `evaluate` left with a release; InputError where it wasn't judged yet."""
    uri = storage.join(release.home, "report.json")
    if not storage.exists(uri):
        raise InputError(f"release {release.id} wasn't judged yet: run `evermodel evaluate` first")
    return EvaluationReport.from_json(storage.read_text(uri))
