"""A small use case and the evaluation report that the tests of this folder show."""

from pathlib import Path

import numpy as np

from evermodel.evaluation.evaluate import evaluate
from evermodel.records import EvaluationReport
from evermodel.use_case import BehaviourTest, Gate, Slice, UseCase
from tests.unit.evaluation import small


def use_case() -> UseCase:
    return small.case(
        slices=(Slice(field="shop", minimum_rows=20, max_drop=0.1),),
        behaviour=(BehaviourTest(name="still", kind="invariance", feature="x", set=9.0),),
        gate=Gate(margin=0.05, calibration_error=0.001),
    )


def report(folder: Path) -> EvaluationReport:
    """A challenger against a champion, with every part that a report can have."""
    challenger = small.release(folder, small.by_x)
    champion = small.release(folder, lambda rows: np.sqrt(small.by_x(rows)), name="champion")
    rows = small.training_rows(small.table(600, seed=1), small.table(300, seed=2, first=600))
    return evaluate(use_case(), challenger, champion, rows, now=small.NOW)


def failed_report(folder: Path) -> EvaluationReport:
    """A challenger that raises: nothing is measured."""

    def fail(rows: object) -> np.ndarray:
        raise RuntimeError("gone")

    challenger = small.release(folder, fail)  # type: ignore[arg-type]
    rows = small.training_rows(small.table(600, seed=1), small.table(300, seed=2, first=600))
    return evaluate(use_case(), challenger, None, rows, now=small.NOW)
