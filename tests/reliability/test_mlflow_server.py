"""MLflow's server as on the cluster: tables in PostgreSQL, artifacts in S3, and a password that isn't visible."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from evermodel.registry.store import connect
from tests.support.servers import Server, database_url, free_port, postgresql_server, s3_server
from tests.support.waiting import scaled, wait_until

pytestmark = [pytest.mark.server, pytest.mark.slow]


@dataclass
class MlflowServer:
    uri: str
    process: subprocess.Popen[bytes]
    log: Path
    database: Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    with pytest.MonkeyPatch.context() as patch, postgresql_server() as database, s3_server(patch) as bucket:
        command = [sys.executable, "-m", "evermodel.registry.server", "--port", str(port)]
        command += ["--backend", database_url(database), "--artifacts", bucket, "--allowed-hosts", "127.0.0.1:*"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, "TMPDIR": str(folder)}, stdout=log, stderr=log
            )
        server = MlflowServer(f"http://127.0.0.1:{port}", process, folder / "log", database)
        try:
            wait_until(lambda: is_healthy(server.uri) or process.poll() is not None, 180, server.log.read_text)
            assert process.poll() is None, server.log.read_text()[-3000:]
            yield server
        finally:
            process.terminate()
            process.wait(timeout=scaled(30))


def is_healthy(uri: str) -> bool:
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def process_tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    pids = [pid]
    for parent in pids:
        listed = Path(f"/proc/{parent}/task/{parent}/children")
        if not listed.exists():
            pytest.skip("this system doesn't list a process's children in /proc")
        pids += [int(child) for child in listed.read_text().split()]
    return pids


def test_runs_and_artifacts_are_kept(server: MlflowServer) -> None:
    client = connect(server.uri)
    experiment = client.create_experiment("shop")
    run = client.create_run(experiment)
    client.log_text(run.info.run_id, "a report", "report.txt")
    client.create_registered_model("shop")
    assert run.info.artifact_uri.startswith("mlflow-artifacts:"), (
        "the server is a proxy, so no client needs the store's credentials"
    )
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["report.txt"]


def test_the_password_is_in_no_argument_no_environment_and_no_log(server: MlflowServer) -> None:
    secret = server.database.password.encode()
    assert b"mlflow" in Path(f"/proc/{server.process.pid}/cmdline").read_bytes(), "it became MLflow's own process"
    for pid in process_tree(server.process.pid):
        for place in ("cmdline", "environ"):
            assert secret not in Path(f"/proc/{pid}/{place}").read_bytes()
    assert secret not in server.log.read_bytes()
    (passfile,) = server.log.parent.rglob("pgpass")
    assert passfile.stat().st_mode & 0o777 == 0o600 and secret in passfile.read_bytes()


def test_it_runs_no_jobs(server: MlflowServer) -> None:
    """MLflow's job runners would take CPU from its server while a pod starts."""
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in process_tree(server.process.pid)]
    assert len(commands) > 1 and not [command for command in commands if b"mlflow.server.jobs" in command]


def test_another_host_name_is_refused(server: MlflowServer) -> None:
    request = urllib.request.Request(f"{server.uri}/api/2.0/mlflow/experiments/search?max_results=1")
    request.add_header("Host", "127.0.0.1.example")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=10)
