"""The closed loop on two nodes: events through Kafka, features in Redis, training on Ray, a release that serving picks up,
drift, an alert, a decision, a stateful retraining run, its promotion; and the same on one machine, with the same outcome.

In order: each test goes on from the one before. The simulated days are the demo's: the first is quiet, on the second
tastes change hands.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evermodel.records import Window
from tests.e2e.cluster import Failed, until
from tests.e2e.deployment import RELEASE, USE_CASE, Deployment
from tests.e2e.load_client import FIRST_RUN, First, LoadClient, live_day
from tests.support import ROOT

QUIET, DRIFT = live_day(0), live_day(1)


def run_schedule(deployment: Deployment, day: Window) -> str:
    """The CronJob's own command in its own pod, at the end of a day; what it said."""
    job = f"schedule-{day.end:%m%d}"
    manifest = json.loads(
        deployment.space.kubectl(
            "create", "job", job, f"--from=cronjob/{RELEASE}-monitoring-{USE_CASE}", "--dry-run=client", "-o", "json"
        )
    )
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    container["args"] = [*container.get("args", []), "--now", day.end.isoformat()]
    deployment.space.apply(manifest)

    def ended() -> str | None:
        conditions = deployment.space.get("job", job)["status"].get("conditions", [])
        return next((one["type"] for one in conditions if one["type"] in ("Complete", "Failed")), None)

    end = until(f"job {job}", ended, seconds=1200, every=3)
    said = deployment.space.kubectl("logs", f"job/{job}", "--all-containers")
    if end == "Failed":
        raise Failed(said)
    return said


def test_history_arrives_through_kafka(first: First) -> None:
    assert first.sent["restaurants.impressions"] > 20_000 and first.sent["restaurants.orders"] > 1_000


def test_the_first_champion_was_trained_on_two_nodes(deployment: Deployment, first: First, tmp_path: Path) -> None:
    deployment.read_state(f"{USE_CASE}/runs/{first.run['key']}", tmp_path)
    workers = json.loads((tmp_path / "workers.json").read_text())
    print(f"\nrank → node: {workers}")
    for objective in {worker["objective"] for worker in workers}:
        assert len({worker["node"] for worker in workers if worker["objective"] == objective}) == 2
    assert first.run["verdict"] == "promote" and deployment.champion() is not None


def test_serving_picks_it_up_with_features_from_redis(deployment: Deployment, first: First) -> None:
    until("the first champion answers", lambda: deployment.live() == {first.run["release"]} or None, seconds=120)


def test_a_quiet_day_keeps_the_champion(deployment: Deployment, load_client: LoadClient, first: First) -> None:
    load_client.live(QUIET)
    assert ": keep: no alert" in run_schedule(deployment, QUIET)
    assert deployment.champion() == first.run["release"]


def test_drift_ends_in_a_better_live_model(
    deployment: Deployment, load_client: LoadClient, first: First, tmp_path: Path
) -> None:
    """The alert's window reaches the run, which starts from the champion's own state, and serving has what it promoted."""
    load_client.live(DRIFT)
    assert ": retrain: concept_shift" in run_schedule(deployment, DRIFT)
    champion = deployment.champion()
    assert champion != first.run["release"]
    deployment.read_state(f"{USE_CASE}/runs", tmp_path)
    (run,) = [place for place in tmp_path.iterdir() if place.name != first.run["key"]]
    for objective in ("order", "revenue"):
        (place,) = run.glob(f"{objective}/*/training.json")
        trained = json.loads(place.read_text())["manifest"]
        assert Window.model_validate(trained["trigger"]) == DRIFT and trained["mode"] == "stateful"
        assert Window.model_validate(trained["windows"][-1]).start < DRIFT.end
        assert trained["step0_loss"] == pytest.approx(trained["parent_loss"], abs=1e-5)
    until("the new champion answers", lambda: deployment.live() == {champion} or None, seconds=120)


def test_the_local_profile_comes_to_the_same(
    deployment: Deployment, first: First, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The same events, code and seed on one machine: the same models to the last bit, the same decisions and verdicts."""
    project, cluster = tmp_path_factory.mktemp("local"), tmp_path_factory.mktemp("cluster")
    for folder in ("pipelines", "components", "feature_repo", "serving", "use_cases"):
        shutil.copytree(ROOT / folder, project / folder)
    (project / "evermodel.yaml").write_text("num_workers: 2\n")
    state = project / ".evermodel" / USE_CASE
    shutil.copytree(first.events, state / "events")

    def python(*words: str) -> str:
        environment = {
            **os.environ,
            "EVERMODEL_PROJECT": str(project),
            "PYTHONPATH": f"{project}{os.pathsep}{ROOT / 'src'}",
        }
        done = subprocess.run(
            [sys.executable, "-m", *words], env=environment, cwd=project, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout + done.stderr

    python("evermodel.cli", "retrain", USE_CASE, *FIRST_RUN)
    for folder in ("events", "requests"):
        shutil.rmtree(state / folder, ignore_errors=True)
        deployment.read_state(f"{USE_CASE}/{folder}", state / folder)
    for day in (QUIET, DRIFT):
        python("evermodel.retraining.scheduler", USE_CASE, "--now", day.end.isoformat())
    deployment.read_state(f"{USE_CASE}/runs", cluster)
    there, here = what_came_of(cluster), what_came_of(state / "runs")
    print(f"\non the cluster: {there}\nhere:           {here}")
    assert len(here) == 2 and here == there


def what_came_of(runs: Path) -> dict[str, list[Any]]:
    """Of each run: its verdict and reasons, and the digests of the weights that it left."""
    found: dict[str, list[Any]] = {}
    for run in sorted(runs.iterdir()):
        report = json.loads((run / "report.json").read_text())["verdict"]
        weights = [hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in sorted(run.glob("*/*/weights.*"))]
        found[run.name] = [report["word"], report["reasons"], weights]
    return found
