"""MLflow's server as the cluster starts it: tables in PostgreSQL, artifacts in S3, and a password that nobody sees."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.servers import Server, database_url, free_port, postgresql_server, s3_server

pytestmark = [pytest.mark.server, pytest.mark.slow]
DEADLINE = 180.0  # MLflow's own start, on a busy machine


@dataclass
class Running:
    uri: str
    process: subprocess.Popen[bytes]
    log: Path
    database: Server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    with pytest.MonkeyPatch.context() as patch, postgresql_server() as database, s3_server(patch) as bucket:
        command = [sys.executable, "-m", "evermodel.registry.server", "--port", str(port)]
        command += ["--backend", database_url(database), "--artifacts", bucket, "--allowed-hosts", "127.0.0.1:*"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, "TMPDIR": str(folder)}, stdout=log, stderr=log
            )
        found = Running(f"http://127.0.0.1:{port}", process, folder / "log", database)
        try:
            until = time.monotonic() + DEADLINE
            while not _healthy(found.uri):
                assert process.poll() is None and time.monotonic() < until, found.log.read_text()[-3000:]
                time.sleep(0.5)
            yield found
        finally:
            process.terminate()
            process.wait(timeout=30)


def _healthy(uri: str) -> bool:
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def family(pid: int) -> list[int]:
    """A process and all that came of it."""
    found = [pid]
    for one in found:
        listed = Path(f"/proc/{one}/task/{one}/children")
        if not listed.exists():
            pytest.skip("this system doesn't list a process's children in /proc")
        found += [int(child) for child in listed.read_text().split()]
    return found


def test_runs_and_artifacts_are_kept(running: Running) -> None:
    from evermodel.registry.store import _connect

    client = _connect(running.uri)
    experiment = client.create_experiment("shop")
    run = client.create_run(experiment)
    client.log_text(run.info.run_id, "what was judged", "report.txt")
    client.create_registered_model("shop")
    assert run.info.artifact_uri.startswith("mlflow-artifacts:"), "proxied: no client needs the store's credentials"
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["report.txt"]


def test_the_password_is_in_no_argument_no_environment_and_no_log(running: Running) -> None:
    secret = running.database.password.encode()
    assert b"mlflow" in Path(f"/proc/{running.process.pid}/cmdline").read_bytes(), "it became MLflow's own process"
    for pid in family(running.process.pid):
        for place in ("cmdline", "environ"):
            assert secret not in Path(f"/proc/{pid}/{place}").read_bytes()
    assert secret not in running.log.read_bytes()
    (passfile,) = running.log.parent.rglob("pgpass")
    assert passfile.stat().st_mode & 0o777 == 0o600 and secret in passfile.read_bytes()


def test_it_runs_no_jobs(running: Running) -> None:
    """What MLflow would start beside its server takes a starting pod's CPU from whoever answers."""
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in family(running.process.pid)]
    assert len(commands) > 1 and not [command for command in commands if b"mlflow.server.jobs" in command]


def test_another_host_name_is_refused(running: Running) -> None:
    asked = urllib.request.Request(f"{running.uri}/api/2.0/mlflow/experiments/search?max_results=1")
    asked.add_header("Host", "127.0.0.1.example")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(asked, timeout=10)
