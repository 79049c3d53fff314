"""A job's process with S3 only: rows, checkpoints, progress and result; a worker that dies in a checkpoint is no loss."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evermodel import bundle, storage, workflow
from evermodel.execution import entrypoint
from evermodel.run_folder import RunFolder
from evermodel.workflow import Project
from tests.support.pump_use_case import LIVE, NAME, readings, write_readings, write_use_case
from tests.support.servers import s3_server

pytestmark = [pytest.mark.ray, pytest.mark.server, pytest.mark.slow]
NOW = LIVE[0].start


def test_a_worker_killed_in_a_checkpoint_resumes_from_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server(monkeypatch) as state:
        root, failpoints = tmp_path / "project", tmp_path / "failpoints"
        write_use_case(root)
        (root / "evermodel.yaml").write_text(
            f"state: {state}\nscratch: scratch\nledger: 'sqlite:///{root}/ledger.db'\nnum_workers: 2\n"
        )
        write_readings(tmp_path / "data", readings())
        project = Project.open(root)
        workflow.ingest(project, NAME, data_dir=tmp_path / "data", now=NOW)
        plan = workflow.plan(project, NAME, now=NOW)
        workflow.claim(project, plan, owner="test", now=NOW)
        rows = workflow.build_training_set(project, plan)
        folder = project.run_folder(plan).uri
        environment = {
            **os.environ, "EVERMODEL_PROJECT": str(root), "RAY_ADDRESS": "local",
            "EVERMODEL_FAILPOINT": "train.checkpoint:5", "EVERMODEL_FAILPOINT_LOG": str(failpoints),
        }  # fmt: skip
        command = [sys.executable, "-m", "evermodel.execution.entrypoint", "train", folder]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        assert failpoints.read_text() == "train.checkpoint\n", "between two files of the third checkpoint"
        ranks = json.loads(storage.read_text(RunFolder(folder).workers))
        assert [(rank["epoch"], rank["rank"]) for rank in ranks] == [(0, 0), (0, 1), (2, 0), (2, 1)]
        assert entrypoint.is_done("train", folder, entrypoint.input_digest("train", folder))
        left = {uri.partition("?")[0].rpartition("/")[2] for uri in storage.list_files(folder)}
        assert "progress.txt" not in left and not any(name.startswith("checkpoint") for name in left)

        release = RunFolder(folder).read_release()
        (trained,) = bundle.open_release(release).bundles.values()
        (plain,) = bundle.open_release(
            entrypoint.train(plan, rows, out=str(tmp_path / "plain"), num_workers=0)
        ).bundles.values()
        assert trained.manifest.final_loss == pytest.approx(plain.manifest.final_loss, abs=1e-6)
        for name, weights in plain.weights.items():
            np.testing.assert_allclose(trained.weights[name], weights, rtol=0, atol=1e-5)
