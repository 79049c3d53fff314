"""The service as a process: started by `evermodel ui` or as a module."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from evermodel.control.__main__ import serve, serving_url
from evermodel.errors import InputError
from evermodel.workflow import Project
from tests.support.ledger_history import NAME
from tests.support.servers import free_port
from tests.support.waiting import wait_until
from tests.unit.control.control_cases import token, write_tokens


def test_without_tokens_it_listens_on_this_machine_only(project_with_history: Project) -> None:
    with pytest.raises(InputError, match=r"listens on 127\.0\.0\.1 only"):
        serve(project_with_history, host="0.0.0.0")


def test_a_short_session_key_is_refused(project_with_history: Project, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("short")
    with pytest.raises(InputError, match="at least 32 bytes"):
        serve(project_with_history, key=str(tmp_path / "key"))


def test_the_default_serving_url_in_a_cluster_is_kuberays_service(project_with_history: Project) -> None:
    profile = project_with_history.profile
    assert serving_url(profile) == "http://127.0.0.1:8000"
    in_cluster = profile.model_copy(update={"rayservice": "evermodel-serving"})
    assert serving_url(in_cluster) == "http://evermodel-serving-serve-svc:8000"
    assert serving_url(in_cluster.model_copy(update={"serve_url": "http://x"})) == "http://x"


@pytest.mark.server
@pytest.mark.parametrize("tokens", [False, True])
def test_it_starts_and_answers_and_stops(project: Project, tmp_path: Path, tokens: bool) -> None:
    port = free_port()
    command = ["-m", "evermodel.cli", "ui", "--port", str(port)]
    if tokens:
        path = write_tokens(tmp_path / "tokens.json")
        command = ["-m", "evermodel.control", "--port", str(port), "--tokens", str(path)]
    environment = {**os.environ, "EVERMODEL_PROJECT": str(project.profile.root)}
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen([sys.executable, *command], env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}"

            def is_ready() -> bool:
                assert process.poll() is None, (tmp_path / "log").read_text()
                try:
                    return bool(httpx.get(f"{url}/readyz", trust_env=False).json() == {"ready": True})
                except httpx.TransportError:
                    return False

            wait_until(is_ready, 60, (tmp_path / "log").read_text)
            headers = {"authorization": f"Bearer {token('eve')}"} if tokens else {}
            assert len(httpx.get(f"{url}/api/v1/{NAME}/runs", headers=headers, trust_env=False).json()) == 4
            assert httpx.get(f"{url}/", trust_env=False).status_code == (401 if tokens else 200)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
    assert token("eve") not in (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()
