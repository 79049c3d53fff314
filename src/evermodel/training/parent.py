"""What a stateful round requires of its parent, whatever kind of model it is.

A stateful start proves itself. `parent_loss`, by the parent's bundle as serving opens it, and `step0_loss`, by the restored
state, are mean losses on the same fresh rows and must be equal. A difference is a StateError: a warm start that isn't
one would show later, in production.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evermodel.bundle import Bundle
from evermodel.clock import from_micros, micros
from evermodel.errors import DataError, StateError
from evermodel.features import transforms as encoders
from evermodel.use_case import UseCase

if TYPE_CHECKING:
    from evermodel.features.training_set import TrainingRows

TOLERANCE = 1e-5


def sections(use_case: UseCase, objective: str) -> dict[str, Any]:
    """The parts of the use-case file that a model is built from: while they stay the same, its state can be restored."""
    declared = use_case.objective(objective)
    features = encoders.features_of(use_case, objective)
    return {
        "features": [feature.model_dump(mode="json") for feature in features],
        "model": declared.model.model_dump(mode="json"),
        "objective_section": declared.model_dump(mode="json", include={"label", "loss", "class_weight", "label_scale"}),
        "label_section": use_case.label(declared.label).model_dump(mode="json", include={"name", "type"}),
    }


def check_fits(use_case: UseCase, objective: str, parent: Mapping[str, Any]) -> None:
    """StateError if the file's features, model or objective aren't those that the parent was built from."""
    for name, section in sections(use_case, objective).items():
        if parent.get(name) != section:
            what = {"objective_section": "objective", "label_section": "label"}.get(name, name)
            raise StateError(
                f"objective {objective!r}: the use case's {what} section isn't the one that the parent was trained with, "
                "so its state can't be restored; train from_scratch, with the reason"
            )


def check_cursor(rows: TrainingRows, parent: Bundle) -> None:
    """StateError if the rows end before those that the parent was trained on."""
    if micros(rows.cursor) < parent.state["cursor"]:
        cursor = from_micros(parent.state["cursor"]).isoformat()
        raise StateError(f"the rows end at {rows.cursor.isoformat()}, before the parent's data cursor, {cursor}")


def check_fresh(objective: str, labelled: int, rows: TrainingRows) -> None:
    """DataError if no fresh row can be learned from."""
    if not labelled:
        raise DataError(
            f"objective {objective!r}: none of {len(rows.train)} fresh rows has a label that the parent knows"
        )


def check_step0(parent_loss: float, step0_loss: float, parent: str) -> None:
    """StateError unless both losses are the same to 1e-5, relative if they are above 1."""
    if not abs(parent_loss - step0_loss) <= TOLERANCE * max(1.0, abs(parent_loss)):  # nan isn't equal either
        raise StateError(
            f"the restored state isn't the parent's function: loss {step0_loss:.8f} at step 0, "
            f"{parent_loss:.8f} by bundle {parent[:12]} on the same rows"
        )
