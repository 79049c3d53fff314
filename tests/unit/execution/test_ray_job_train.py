"""The training and batch steps with a RayJob: inputs, entry point and results.

The fake cluster runs the entry point in a process of its own, as a real one does. One worker gives the same bits as the
plain loop, so the release must equal the one that the step trains itself.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evermodel import bundle, storage, workflow
from evermodel.errors import EvermodelError
from evermodel.execution import entrypoint
from evermodel.features import training_set
from evermodel.serving.batch import score_rows
from evermodel.workflow import Project
from tests.support.batch import read_batch
from tests.support.pump_use_case import LIVE, NAME, PER_DAY, readings, write_readings, write_use_case
from tests.unit.execution.kubernetes_server import Cluster, kubernetes

pytestmark = [pytest.mark.ray, pytest.mark.slow]
NOW = LIVE[0].start
TEMPLATE = "kind: RayJob\napiVersion: ray.io/v1\nspec: {rayClusterSpec: {workerGroupSpecs: [{groupName: w}]}}\n"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "project"
    write_use_case(root)
    (root / "evermodel.yaml").write_text("ray_job: rayjob.yaml\nnum_workers: 1\n")
    (root / "rayjob.yaml").write_text(TEMPLATE)
    write_readings(tmp_path / "data", readings())
    opened = Project.open(root)
    workflow.ingest(opened, NAME, data_dir=tmp_path / "data", now=NOW)
    return opened


def run_entry_point(project: Project) -> Any:
    """A step that runs a RayJob's entry point."""

    def step(job: dict[str, Any]) -> None:
        environment = {
            **os.environ, "EVERMODEL_PROJECT": str(project.profile.root), "RAY_ADDRESS": "local", "NODE_NAME": "node-1",
        }  # fmt: skip
        command = [sys.executable, *shlex.split(job["spec"]["entrypoint"])[1:]]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        good = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
        bad = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": done.stderr}
        job["status"] = bad if done.returncode else good

    return step


@pytest.fixture
def cluster(tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with kubernetes(tmp_path) as (fake, config):
        monkeypatch.setenv("KUBECONFIG", str(config))
        fake.script["rayjobs"] = [run_entry_point(project)]
        yield fake


def test_a_ray_job_gives_the_same_release_and_scores_as_the_step_itself(project: Project, cluster: Cluster) -> None:
    plan = workflow.plan(project, NAME, now=NOW)
    assert workflow.claim(project, plan, owner="test", now=NOW)
    rows = workflow.build_training_set(project, plan)
    release = workflow.train(project, plan, rows)
    assert cluster.count_applied("rayjobs") == 1 and not cluster.objects
    assert storage.read_text(project.run_folder(plan).workers) == (
        '[{"epoch":0,"node":"node-1","objective":"failed","rank":0}]'
    )
    assert workflow.train(project, plan, rows) == release and cluster.count_applied("rayjobs") == 1, "the job is done"
    here = entrypoint.train(plan, rows, out=project.run_folder(plan).uri, num_workers=0)
    for mine, other in zip(here.bundles, release.bundles, strict=True):
        plain, packed = bundle.open_bundle(mine), bundle.open_bundle(other)
        assert {name: value.tobytes() for name, value in packed.weights.items()} == {
            name: value.tobytes() for name, value in plain.weights.items()
        }
        assert packed.manifest.row_digest == plain.manifest.row_digest
    assert project.ledger().find_release(NAME, release.id) == release, (
        "the step records it, since the job has no ledger"
    )

    report = workflow.evaluate(project, plan, rows, release)
    workflow.promote(project, plan, release, report, actor="test", override="for the batch below")
    cluster.script["rayjobs"] = [run_entry_point(project)]
    scores = read_batch(workflow.predict_batch(project, NAME, window=LIVE[0], now=LIVE[0].end))
    assert cluster.count_applied("rayjobs") == 2 and scores.num_rows == PER_DAY
    _, case = project.find(NAME)
    unlabelled = training_set.build_rows(case, project.log(case), window=LIVE[0], now=LIVE[0].end, labelled=False)
    plain = score_rows(bundle.open_release(release), unlabelled).sort_by("row_id")
    assert scores["score"].to_pylist() == pytest.approx(plain["score"].to_pylist())
    workflow.predict_batch(project, NAME, window=LIVE[0], now=LIVE[0].end)
    assert cluster.count_applied("rayjobs") == 2, "the same rows by the same release are scored once"


def test_the_error_of_a_job_reaches_the_step(project: Project, cluster: Cluster) -> None:
    plan = workflow.plan(project, NAME, now=NOW)
    workflow.claim(project, plan, owner="test", now=NOW)
    rows = workflow.build_training_set(project, plan)
    changed = plan.model_copy(update={"use_case_digest": "0" * 64})
    with pytest.raises(
        EvermodelError, match=r"failed \(FAILED\): .* the use case is not the one .* \(digest 000000000000\)"
    ):
        workflow.train(project, changed, rows)
    assert not project.run_folder(plan).is_trained
