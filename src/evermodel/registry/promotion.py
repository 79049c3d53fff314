"""Promotion and rollback: the only two functions that change the champion.

The ledger's promotion row is the commit. All steps before it can be repeated; what follows (aliases, the Serve config)
is derived from the ledger. A release's bundles are verified first, so that a champion can always be opened.
"""

from __future__ import annotations

from datetime import datetime

from evermodel import bundle
from evermodel.errors import ConflictError, GateError
from evermodel.ledger import Ledger
from evermodel.records import Promotion, Release, Verdict

AUTOMATIC = frozenset({"backtest", "pipeline", "policy", "scheduler"})  # actors that may not override the gate


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
    """Make `release` the champion in place of `expected` (a release id, or None if there is no champion yet).

    GateError if the verdict isn't `promote`, unless a person overrides it: then `reason` is needed, and is recorded
    together with the verdict. ConflictError if the champion isn't `expected` any more; IntegrityError if a bundle's
    bytes don't match its manifest. Promoting the champion again returns its own row.
    """
    if verdict.word != "promote" or override:
        reason = _override_reason(release, verdict, actor=actor, reason=reason, override=override)
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


def _override_reason(release: Release, verdict: Verdict, *, actor: str, reason: str, override: bool) -> str:
    gate = f"the gate says {verdict.word}: {'; '.join(verdict.reasons) or 'no reason given'}"
    name = f"{release.use_case}: release {release.id}"
    if not override:
        raise GateError(f"{name} can't be promoted, {gate}")
    if actor in AUTOMATIC or not reason.strip():
        raise GateError(f"{name}: only a person overrides the gate, with a reason; {actor!r} gave {reason!r}; {gate}")
    return f"override by {actor}: {reason} ({gate})"


def rollback(
    ledger: Ledger, use_case_name: str, *, now: datetime, actor: str, reason: str, replaced: str | None = None
) -> Promotion:
    """Make the previous champion the champion again; a second rollback goes back one more.

    `replaced` is the id of the release to roll back from. If a rollback has replaced it already, that rollback's row is
    returned, so that a rollback can be repeated after a crash. ConflictError if there is no previous champion, or
    another champion; IntegrityError if the previous champion's bundles are damaged.
    """
    champion = ledger.champion(use_case_name)
    if champion is not None and replaced not in (None, champion.id):
        newest = ledger.promotions(use_case_name)[-1]
        if newest.action == "rollback" and newest.previous == replaced:
            return newest
        raise ConflictError(f"{use_case_name}: can't roll back from release {replaced}: the champion is {champion.id}")
    previous = ledger.previous(use_case_name)
    if champion is None or previous is None:
        history = f"only {champion.id} was ever promoted" if champion else "nothing was ever promoted"
        raise ConflictError(f"{use_case_name}: no champion to go back to: {history}")
    for part in previous.bundles:
        bundle.verify(part)
    return ledger.promote(
        previous, expected=champion.id, verdict=None, action="rollback", reason=reason, actor=actor, now=now
    )
