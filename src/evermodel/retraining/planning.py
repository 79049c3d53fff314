"""What a training run is to do: its parent, windows, mode and key, decided once, before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from evermodel.clock import micros
from evermodel.code_version import code_version
from evermodel.errors import InputError, nearest
from evermodel.records import Decision, Mode, Plan, Promotion, Release, Window, canonical_json, sha256
from evermodel.use_case import UseCase


def make_plan(
    case: UseCase,
    *,
    uri: str,
    champion: Release | None,
    parent: Release | None,
    now: datetime,
    data_version: str,
    windows: Sequence[Window] = (),
    mode: Mode | None = None,
    trigger: Window | None = None,
    key: str = "",
    reason: str = "",
) -> Plan:
    """The plan of a run. Without `windows`: all rows since the parent's cursor, or `training.first` without a parent.

    `champion` is the release that the result is compared with; `parent` is the release that training continues from.
    InputError if a stateful run has no parent, or if a run starts over beside a champion without a reason.
    """
    chosen: Mode = mode or ("stateful" if parent else "from_scratch")
    if parent is None and chosen == "stateful":
        raise InputError(f"{case.name}: there is no release to continue from; train with mode from_scratch first")
    if champion is not None and chosen == "from_scratch" and not reason.strip():
        raise InputError(f"{case.name}: starting over beside champion {champion.id} needs a reason")
    spans = tuple(windows) or _default_windows(case, parent or champion, now)
    ids = [release.id if release else None for release in (champion, parent)]
    identity = (case.name, ids, [window.span for window in spans], micros(now), chosen)
    return Plan(
        use_case=case.name,
        use_case_uri=uri,
        use_case_digest=case.digest(),
        data_version=data_version,
        code_version=code_version(),
        windows=spans,
        mode=chosen,
        parent=parent,
        champion=champion,
        trigger=trigger,
        now=now,
        key=key or sha256(canonical_json(identity).encode())[:16],
        reason=reason or ("asked for" if champion else "the first champion"),
    )


def find_parent(
    case: UseCase, parent: str, *, champion: Release | None, promotions: Sequence[Promotion]
) -> Release | None:
    """The release that `parent` names: `champion`, `none`, or the id of a release that was promoted once."""
    if parent in ("champion", "none"):
        return champion if parent == "champion" else None
    known = {row.release.id: row.release for row in promotions}
    if parent not in known:
        raise InputError(f"{case.name}: no release {parent!r} in the ledger; {nearest(parent, known)}")
    return known[parent]


def parse_mode(text: str) -> Mode | None:
    """A mode as a person writes it; None if the text is empty."""
    if text not in ("", "stateful", "from_scratch"):
        raise InputError(f"mode {text!r}: write stateful or from_scratch")
    return text or None  # type: ignore[return-value]


def answered_trigger(plan: Plan, decisions: Sequence[Decision]) -> Window | None:
    """The window of the alerts that the newest retrain decision is about, if the plan trains on all of it."""
    champion = plan.champion.id if plan.champion else None
    retrains = [decision for decision in decisions if decision.action == "retrain" and decision.champion == champion]
    if not retrains or not retrains[-1].alerts or (window := retrains[-1].trigger) is None:
        return None
    covered = any(trained.start <= window.start and window.end <= trained.end for trained in plan.windows)
    return window if covered else None


def _default_windows(case: UseCase, release: Release | None, now: datetime) -> tuple[Window, ...]:
    if release is not None:
        return (Window(start=release.cursor, end=now),)
    if case.training.first is None:
        raise InputError(f"{case.name}: name the windows to train on, or training.first in the use case")
    return (case.training.first,)
