"""Data and features: sources into the event log, training rows out of it, and the online store."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from evermodel import storage
from evermodel import use_case as use_cases
from evermodel.features import training_set as training_sets
from evermodel.records import IngestReport, Plan, TrainingSet, canonical_json
from evermodel.use_case import UseCase
from evermodel.workflow.project import Project


def ingest(project: Project, reference: str, *, data_dir: str | Path, now: datetime) -> list[IngestReport]:
    """Read every source of a use case into its event log; rows that are there already are counted as duplicates."""
    from evermodel.data.ingest import ingest as ingest_source

    _, case = project.find(reference)
    log = project.log(case)
    return [ingest_source(case, source.name, log, data_dir=str(data_dir), now=now) for source in case.sources]


def build_training_set(project: Project, plan: Plan) -> TrainingSet:
    """Point-in-time rows of the plan's windows, split into train, rehearsal and gate rows.

    `leakage.json` beside them lists the findings of the leakage report. LeakageError, before anything is computed, if the
    use case defines a feature that reads an outcome before it is known.
    """
    from evermodel.data.leakage import declared_leaks, refuse

    _, case = project.find(plan.use_case_uri)
    refuse(declared_leaks(case))
    rows = project.training_rows(case, plan)
    saved = project.save_training_set(case, plan, rows)
    folder = project.run_folder(plan)
    if project.writes_pages:
        storage.write_text(folder.leakage, _leakage(case, rows))
    folder.write_training_set(saved)
    return saved


def _leakage(case: UseCase, rows: training_sets.TrainingRows) -> str:
    """The findings of the leakage report for every label, each once, as JSON."""
    from evermodel.data.leakage import leakage_report

    both = pa.concat_tables([rows.train, rows.gate])
    trained = np.arange(both.num_rows) < rows.train.num_rows
    found = {
        finding.to_json(): finding
        for objective in case.objectives
        for finding in leakage_report(case, both, train=trained, label=objective.label)
    }
    return canonical_json([finding.model_dump(mode="json") for finding in found.values()])


def materialize(project: Project, reference: str, *, now: datetime) -> int:
    """Bring the online store up to `now`; the number of entities written."""
    from evermodel.features.online_store import materialize as write
    from evermodel.features.online_store import open_store

    _, case = project.find(reference)
    profile = project.profile
    store = open_store(profile.online_features, password_file=profile.online_store_password_file)
    return write(case, project.log(case), store, offline_root=project.profile.offline_features, now=now)


def apply_features(project: Project) -> list[str]:
    """Register every use case's features with Feast; the names of the registered objects."""
    from evermodel.features.repository import apply

    profile = project.profile
    cases = [use_cases.load(path) for path in storage.list_files(profile.root / "use_cases", suffix=".yaml")]
    places = {
        "EVERMODEL_LEDGER": profile.ledger_url,
        "EVERMODEL_ONLINE_STORE": profile.online_features,
        "EVERMODEL_ONLINE_STORE_PASSWORD_FILE": profile.online_store_password_file or "",
    }
    repo = profile.root / profile.feature_repo
    return apply(repo, cases, profile.offline_features, file=profile.feature_store, places=places)
