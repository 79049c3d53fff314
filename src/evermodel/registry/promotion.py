"""Carry out the gate's word: the only way to a new champion, and the way back.

The ledger's promotion row is the commit. Everything before it can be done again; everything after it (aliases, the
Serve config) is a projection. A release's bundles are verified first: a champion that can't be opened is none.
"""

from __future__ import annotations

from datetime import datetime

from evermodel import bundle
from evermodel.errors import ConflictError, GateError
from evermodel.ledger import Ledger
from evermodel.records import Promotion, Release, Verdict

AUTOMATIC = frozenset({"pipeline", "policy", "replay", "scheduler"})  # actors that must not override the gate


def promote(
    ledger: Ledger,
    release: Release,
    *,
    verdict: Verdict,
    expected: str | None,
    now: datetime,
    actor: str,
    reason: str,
    override: bool = False,
) -> Promotion:
    """Make `release` the champion in the place of `expected` (a release id; None: there is none yet).

    GateError where the verdict isn't `promote`, unless a person overrides it: then `reason` is theirs, must say
    something, and is recorded together with what the gate said. ConflictError where the champion isn't `expected` any
    more; IntegrityError where a bundle's bytes aren't its manifest's. Promoting the champion again gives its own row.
    """
    if verdict.word != "promote" or override:
        reason = _overridden(release, verdict, actor=actor, reason=reason, override=override)
    for part in release.bundles:
        bundle.verify(part)
    return ledger.promote(
        release,
        expected=expected,
        verdict=verdict,
        action="promote",
        reason=reason,
        actor=actor,
        now=now,
        again=override,
    )


def _overridden(release: Release, verdict: Verdict, *, actor: str, reason: str, override: bool) -> str:
    said = f"the gate says {verdict.word}: {'; '.join(verdict.reasons) or 'no reason given'}"
    name = f"{release.use_case}: release {release.id}"
    if not override:
        raise GateError(f"{name} can't be promoted, {said}")
    if actor in AUTOMATIC or not reason.strip():
        raise GateError(f"{name}: only a person overrides the gate, with a reason; {actor!r} gave {reason!r}; {said}")
    return f"override by {actor}: {reason} ({said})"


def rollback(
    ledger: Ledger, use_case_name: str, *, now: datetime, actor: str, reason: str, leave: str | None = None
) -> Promotion:
    """Put back the champion before this one; a second rollback goes one further.

    `leave` is the release id that is to be left; where it isn't the champion any more, the row that the champion came
    by is returned, so that a rollback that crashed can be asked for again. ConflictError where there is nothing to go
    back to; IntegrityError where the previous champion's bundles aren't whole.
    """
    champion = ledger.champion(use_case_name)
    if champion is not None and leave not in (None, champion.id):
        newest = ledger.promotions(use_case_name)[-1]
        if newest.action == "rollback" and newest.previous == leave:
            return newest
        raise ConflictError(f"{use_case_name}: release {leave} is to be left, but the champion is {champion.id}")
    previous = ledger.previous(use_case_name)
    if champion is None or previous is None:
        found = f"only {champion.id} was ever promoted" if champion else "nothing was ever promoted"
        raise ConflictError(f"{use_case_name}: no champion to go back to: {found}")
    for part in previous.bundles:
        bundle.verify(part)
    return ledger.promote(
        previous, expected=champion.id, verdict=None, action="rollback", reason=reason, actor=actor, now=now
    )
