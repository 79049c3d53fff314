"""A job's process on S3 alone: rows, checkpoints, progress and result; a worker that dies in mid-checkpoint is no loss."""

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
from evermodel.records import Release
from evermodel.workflow import Project
from tests.support.pump_use_case import LIVE, NAME, readings, write_readings, write_use_case
from tests.support.servers import s3_server

pytestmark = [pytest.mark.ray, pytest.mark.server, pytest.mark.slow]
NOW = LIVE[0].start


def test_a_worker_killed_in_mid_checkpoint_goes_on_from_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server(monkeypatch) as state:
        root, fallen = tmp_path / "project", tmp_path / "fallen"
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
        folder = project.turn(plan)
        environment = {
            **os.environ, "EVERMODEL_PROJECT": str(root), "RAY_ADDRESS": "local",
            "EVERMODEL_FAILPOINT": "train.checkpoint:5", "EVERMODEL_FAILPOINT_LOG": str(fallen),
        }  # fmt: skip
        command = [sys.executable, "-m", "evermodel.execution.entrypoint", "train", folder]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        assert fallen.read_text() == "train.checkpoint\n", "between the files of the third checkpoint"
        ranks = json.loads(storage.read_text(storage.join(folder, "workers.json")))
        assert [(one["epoch"], one["rank"]) for one in ranks] == [(0, 0), (0, 1), (2, 0), (2, 1)]
        assert entrypoint.is_done("train", folder, entrypoint.inputs("train", folder))
        left = {uri.partition("?")[0].rpartition("/")[2] for uri in storage.list_files(folder)}
        assert "progress.txt" not in left and not any(name.startswith("checkpoint") for name in left)

        release = Release.from_json(storage.read_text(storage.join(folder, "release.json")))
        (trained,) = bundle.open_release(release).bundles.values()
        (plain,) = bundle.open_release(
            entrypoint.train(plan, rows, out=str(tmp_path / "plain"), num_workers=0)
        ).bundles.values()
        assert trained.manifest.final_loss == pytest.approx(plain.manifest.final_loss, abs=1e-6)
        for name, weights in plain.weights.items():
            np.testing.assert_allclose(trained.weights[name], weights, rtol=0, atol=1e-5)
