"""Tuning with its rows and its trials on S3."""

from pathlib import Path

import pytest

from evermodel import storage, workflow
from evermodel.features import training_set
from evermodel.workflow import Project
from tests.support.pump_use_case import FIRST, NAME, readings, write_readings, write_use_case
from tests.support.servers import s3_server


@pytest.mark.ray
@pytest.mark.server
@pytest.mark.slow
def test_a_search_leaves_nothing_behind_in_the_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evermodel.training.tuning import tune_objective

    write_use_case(tmp_path, split={"validation": 0.2})
    (tmp_path / "evermodel.yaml").write_text("")
    write_readings(tmp_path / "data", readings(3))
    project = Project.open(tmp_path)
    workflow.ingest(project, NAME, data_dir=tmp_path / "data", now=FIRST.end)
    plan = workflow.plan(project, NAME, now=FIRST.end)
    training_rows = training_set.load(workflow.build_training_set(project, plan))
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with s3_server(monkeypatch) as state:
        found = tune_objective(project.find(NAME)[1], "failed", training_rows, num_trials=1, seed=1, out=state)
        assert len(found.trials) == 1
        assert storage.list_files(state) == []
