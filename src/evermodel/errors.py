"""Every error that Evermodel raises on purpose.

    EvermodelError
    ├── InputError            what a person gave (an argument, a setting, a name): what, where, the nearest valid name
    │   └── UseCaseError      the same of the use-case file
    ├── DataError             a source or batch that can't be read as declared
    │   └── LeakageError      a feature that knows the label
    ├── IntegrityError        stored bytes differ from their manifest (bundle, event log, training set)
    ├── StateError            training state that can't be restored: starting over is a decision, never a default
    ├── FeatureStoreError     the online store is down, slow or holds nothing for an id
    ├── GateError             a release that the gate didn't pass: the verdict isn't `promote`
    ├── ConflictError         a compare-and-set lost: someone else promoted, claimed or committed first
    └── ServingError          a request that can't be answered; carries `code`, `field`, `reason`

A message says what is wrong, where, and what would be right. Nothing has been changed when one of these is raised.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class EvermodelError(Exception):
    """The root: catch this to catch all that Evermodel raises on purpose."""


class InputError(EvermodelError):
    """An argument, a setting or a name that a person gave is wrong."""


class UseCaseError(InputError):
    """The use-case file is wrong at a named place."""


class DataError(EvermodelError):
    """A source or a batch can't be read as it is declared."""


class LeakageError(DataError):
    """A feature knows what is only known after the prediction."""


class IntegrityError(EvermodelError):
    """Stored bytes differ from what their manifest says."""


class StateError(EvermodelError):
    """Training state can't be restored as it was saved."""


class FeatureStoreError(EvermodelError):
    """The online store didn't answer, or answers what is stale."""


class GateError(EvermodelError):
    """The gate's verdict isn't `promote`; its reasons are in the message."""


class ConflictError(EvermodelError):
    """A compare-and-set lost against somebody else's."""


class ServingError(EvermodelError):
    """A request that can't be answered, with what its sender needs to mend it."""

    def __init__(self, code: str, reason: str, *, field: str | None = None) -> None:
        super().__init__(f"{code}: {reason}" + (f" (at {field})" if field else ""))
        self.code, self.field, self.reason = code, field, reason


def nearest(name: str, valid: Iterable[str]) -> str:
    """The tail of an error message: `did you mean 'x'?`, or the valid names where none is near."""
    names = sorted(set(valid))
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(names) or 'none'}"
