"""All errors that Evermodel raises on purpose.

    EvermodelError
    ├── InputError            an argument, a setting or a name that a person gave is wrong
    │   └── UseCaseError      the use-case file is wrong at a named place
    ├── DataError             a source or batch does not match its declaration
    │   └── LeakageError      a feature knows the label
    ├── IntegrityError        stored bytes differ from their manifest (bundle, event log, training set)
    ├── StateError            training state can't be restored: retraining from scratch is never a default
    ├── FeatureStoreError     the online store is down, slow or outdated
    ├── GateError             a release may not be promoted: the verdict isn't `promote`
    ├── ConflictError         another writer won a compare-and-set: it promoted, claimed or committed first
    └── ServingError          a request can't be answered; has `code`, `field`, `reason`

A message states what is wrong, where, and what would be right. Nothing has been changed when one of these is raised.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class EvermodelError(Exception):
    """The base class of all errors that Evermodel raises on purpose."""


class InputError(EvermodelError):
    """An argument, a setting or a name that a person gave is wrong."""


class UseCaseError(InputError):
    """The use-case file is wrong at a named place."""


class DataError(EvermodelError):
    """A source or a batch does not match its declaration."""


class LeakageError(DataError):
    """A feature uses information from after the prediction."""


class IntegrityError(EvermodelError):
    """Stored bytes differ from their manifest."""


class StateError(EvermodelError):
    """Training state can't be restored as it was saved."""


class FeatureStoreError(EvermodelError):
    """The online store didn't answer, or its values are outdated."""


class GateError(EvermodelError):
    """The gate's verdict isn't `promote`; the message has its reasons."""


class ConflictError(EvermodelError):
    """Another writer won a compare-and-set."""


class ServingError(EvermodelError):
    """A request can't be answered. `code`, `field` and `reason` tell its sender what to correct."""

    def __init__(self, code: str, reason: str, *, field: str | None = None) -> None:
        super().__init__(f"{code}: {reason}" + (f" (at {field})" if field else ""))
        self.code, self.field, self.reason = code, field, reason


def nearest(name: str, valid: Iterable[str]) -> str:
    """The tail of an error message: `did you mean 'x'?`, or all valid names if none is near."""
    names = sorted(set(valid))
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(names) or 'none'}"
