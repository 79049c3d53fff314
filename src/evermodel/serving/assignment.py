"""Assigns units to arms by a deterministic, salted, weighted rendezvous hash.

Every arm draws a number for the unit, −share / ln(u) with u in (0, 1) from a hash of (salt, arm, unit); the largest draw
wins. So an arm wins with probability share / Σ shares, the same unit always gets the same arm, and raising one arm's
share moves units to that arm only (Schindelhauer and Schomaker 2005, *Weighted distributed hash tables*). A shadow
arm gets no units: it scores every row beside the assigned arm, and its scores are only logged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from evermodel.errors import ServingError


@dataclass(frozen=True)
class Assignment:
    """The arm of a unit, and the probability of the assignment, which off-policy estimators need."""

    arm: str
    propensity: float


def assign(unit: str, shares: Mapping[str, float], *, salt: str) -> Assignment:
    """The arm of `unit` among arms with these shares; ServingError if no arm has a positive share.

    Shares needn't sum to 1. The same salt and shares give the same arm in every process, at any time.
    """
    total = math.fsum(share for share in shares.values() if share > 0)
    if not (total > 0 and math.isfinite(total)):
        raise ServingError("bad_arms", "no arm has a positive share", field="arms")
    draws = {arm: -share / math.log(_uniform(salt, arm, unit)) for arm, share in shares.items() if share > 0}
    arm = max(sorted(draws), key=draws.__getitem__)
    return Assignment(arm, shares[arm] / total)


def _uniform(salt: str, arm: str, unit: str) -> float:
    """A number in (0, 1), uniform over units. It takes 53 bits of the hash, so it is never rounded up to 1."""
    text = "\x1f".join((salt, arm, unit)).encode()
    number = int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 11
    return (number + 0.5) / 2.0**53
