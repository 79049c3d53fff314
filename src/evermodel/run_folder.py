"""The files of one training run: `RunFolder` is the only place that knows their names.

A run's folder is its release's `home`, too: what training, evaluation and monitoring leave of a release lies together.
"""

from __future__ import annotations

from dataclasses import dataclass

from evermodel import storage
from evermodel.errors import InputError
from evermodel.records import EvaluationReport, Plan, Release, TrainingSet


@dataclass(frozen=True)
class RunFolder:
    """A run's folder by its path or URI."""

    uri: str

    def file(self, *parts: str) -> str:
        return storage.join(self.uri, *parts)

    @property
    def plan(self) -> str:
        return self.file("plan.json")

    @property
    def rows(self) -> str:
        """The folder of the training set's Parquet files."""
        return self.file("training_set")

    @property
    def training_set(self) -> str:
        return self.file("training_set.json")

    @property
    def leakage(self) -> str:
        return self.file("leakage.json")

    @property
    def release(self) -> str:
        return self.file("release.json")

    @property
    def report(self) -> str:
        return self.file("report.json")

    @property
    def report_page(self) -> str:
        return self.file("report.html")

    @property
    def report_text(self) -> str:
        return self.file("report.md")

    @property
    def card(self) -> str:
        return self.file("card.md")

    @property
    def reference(self) -> str:
        """What monitoring compares the release's answers with."""
        return self.file("reference.json")

    @property
    def workers(self) -> str:
        """Which node each training worker was on."""
        return self.file("workers.json")

    @property
    def batch(self) -> str:
        """What a batch prediction is to score."""
        return self.file("batch.json")

    @property
    def is_trained(self) -> bool:
        return storage.exists(self.release)

    def read_plan(self) -> Plan:
        return Plan.from_json(storage.read_text(self.plan))

    def write_plan(self, plan: Plan) -> None:
        storage.write_text(self.plan, plan.to_json())

    def read_training_set(self) -> TrainingSet:
        return TrainingSet.from_json(storage.read_text(self.training_set))

    def write_training_set(self, rows: TrainingSet) -> None:
        storage.write_text(self.training_set, rows.to_json())

    def read_release(self) -> Release:
        return Release.from_json(storage.read_text(self.release))

    def write_release(self, release: Release) -> None:
        storage.write_text(self.release, release.to_json())

    def read_report(self) -> EvaluationReport:
        """InputError if the release wasn't judged yet."""
        if not storage.exists(self.report):
            raise InputError(f"{self.uri} holds no evaluation report: run `evermodel evaluate` first")
        return EvaluationReport.from_json(storage.read_text(self.report))

    def write_report(self, report: EvaluationReport) -> None:
        storage.write_text(self.report, report.to_json())
