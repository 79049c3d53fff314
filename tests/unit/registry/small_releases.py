"""The parts of a small release."""

from collections.abc import Callable
from datetime import UTC, datetime

from evermodel.records import EvaluationReport, Interval, Release, TrainingManifest, Verdict, Window
from tests.support.bundles import training_manifest

START = datetime(2026, 1, 1, tzinfo=UTC)
WINDOW = Window(start=START, end=datetime(2026, 1, 8, tzinfo=UTC))
PASSED = Verdict(word="promote", difference=Interval(point=0.02, low=0.01, high=0.03), reasons=("better than a",))
GIVEN = {"use_case": "electricity", "mode": "from_scratch", "windows": (WINDOW,), "cursor": WINDOW.end}
MakeRelease = Callable[..., Release]


def manifest(name: str, objective: str = "up") -> TrainingManifest:
    return training_manifest(name, objective=objective, **GIVEN)


def report(release: Release, verdict: Verdict = PASSED) -> EvaluationReport:
    return EvaluationReport(
        use_case=release.use_case,
        challenger=release.id,
        champion=release.parent,
        rows=5,
        window=WINDOW,
        metric="accuracy",
        metrics={"accuracy": 0.8, "auc": None},
        champion_metrics={"accuracy": 0.7},
        baselines={"majority": 0.6, "random": None},
        model_bytes=100,
        milliseconds_per_row=0.1,
        verdict=verdict,
    )
