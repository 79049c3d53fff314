"""What runs beside the demo: a local Ray, the serving process, and the registration of features with Feast."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx

from evermodel import storage
from evermodel.errors import EvermodelError
from evermodel.execution.launch import QUIET
from evermodel.execution.retry import RetryPolicy, poll
from evermodel.profile import Profile

FEAST_SECONDS = 120
START_SECONDS = 90
POLLING = RetryPolicy(poll_seconds=0.3)


@contextmanager
def register_features(profile: Profile) -> Iterator[None]:
    """Register the features with Feast while the body runs: it takes ten seconds, and nothing in the demo waits for it."""
    log = profile.scratch_folder / "runs" / "demo-feast.log"
    with storage.open_log(log) as output:
        process = _start(profile, log=output, verb=["features", "apply"], environment=QUIET)
        try:
            yield
        finally:
            if process.wait(timeout=FEAST_SECONDS) != 0:
                print(f"feast apply failed: see {log}", file=sys.stderr, flush=True)


@contextmanager
def local_ray() -> Iterator[str]:
    """A local Ray for the demo; its address is in RAY_ADDRESS for every process that is started meanwhile."""
    import ray

    os.environ.update(QUIET)
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=200_000_000,
        _node_ip_address="127.0.0.1",
    )
    address = str(ray.get_runtime_context().gcs_address)
    os.environ["RAY_ADDRESS"] = address
    try:
        yield address
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        ray.shutdown()


@contextmanager
def run_server(profile: Profile, use_case: str, *, port: int, ray_address: str) -> Iterator[None]:
    """`evermodel serve` in a process of its own, ready when the body starts and stopped after it."""
    log = profile.scratch_folder / "runs" / "demo-serve.log"
    verb = ["serve", use_case, "--port", str(port), "--simulated-time"]
    with storage.open_log(log) as output:
        process = _start(profile, log=output, verb=verb, environment={"RAY_ADDRESS": ray_address})
        try:
            wait_until_ready(port, process=process, log=log)
            yield
        finally:
            process.terminate()
            process.wait(timeout=30)


def wait_until_ready(
    port: int, release: str = "", *, process: subprocess.Popen[bytes] | None = None, log: Path | None = None
) -> None:
    """Wait until the API is ready, and serves `release` if one is given; EvermodelError if `process` ends before."""

    def is_ready() -> bool:
        if process is not None and process.poll() is not None:
            raise EvermodelError(f"serving ended during its start: see {log}")
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200 and release in answer.text

    if not poll(is_ready, bool, POLLING, limit_seconds=START_SECONDS):
        what = f"release {release} isn't served" if release else "the API isn't ready"
        raise EvermodelError(f"{what} after {START_SECONDS} s: see /readyz on port {port}")


def _start(
    profile: Profile, *, log: IO[bytes], verb: list[str], environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "evermodel.cli", *verb],
        cwd=profile.root,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment},
    )
