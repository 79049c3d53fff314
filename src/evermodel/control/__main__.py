"""`python -m evermodel.control`: the control service of a project, until SIGTERM.

Without `--tokens` it is the local user's own, on 127.0.0.1 alone; any other address needs tokens. The three options are
paths of files, by default the keys of the Secret that is mounted at `/etc/evermodel/secrets/control`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable
from threading import Thread

import uvicorn

from evermodel import clock, storage
from evermodel.control.actions import Runs
from evermodel.control.app import create_control
from evermodel.control.auth.session import Sessions, session_key
from evermodel.control.rollout.rayservice import RayService
from evermodel.control.rollout.reconciler import Reconciler
from evermodel.control.service import Service, Status, asks_serving
from evermodel.credentials import Tokens
from evermodel.errors import EvermodelError, InputError
from evermodel.execution.kubernetes_api import KubernetesApi
from evermodel.profile import Profile
from evermodel.workflow import Project

LOCAL = "127.0.0.1"
SECRETS = "/etc/evermodel/secrets/control"
log = logging.getLogger(__name__)


def serve(
    project: Project,
    *,
    host: str = LOCAL,
    port: int = 8080,
    tokens: str | None = None,
    key: str | None = None,
    serving_token: str | None = None,
) -> None:
    """Serve until interrupted. `tokens`, `key`, `serving_token`: files; see `credentials`, `session` and `projector`."""
    if tokens is None and host != LOCAL:
        raise InputError(f"without --tokens the control service listens on {LOCAL} only, not on {host}")
    ask = asks_serving(serving_url(project.profile), token_file=serving_token)
    service = Service(project, clock=clock.now, tokens=Tokens.from_file(tokens) if tokens else None, serving=ask)
    sessions, runs = Sessions(session_key(key), clock=service.clock), Runs(service)
    projector = _projector(service, ask)
    app = create_control(service, sessions=sessions, runs=runs, projection=projector)
    if projector is not None:
        projector.start()
        Thread(target=_resume, args=(runs,), name="resume", daemon=True).start()
    try:
        uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False, server_header=False)
    finally:
        if projector is not None:
            projector.stop()


def serving_url(profile: Profile) -> str:
    """Where serving answers: what the profile says, else the service that KubeRay makes of a RayService."""
    said = profile.serve_url
    if profile.rayservice is None or said != Profile.model_fields["serve_url"].default:
        return said
    return f"http://{profile.rayservice}-serve-svc:8000"


def _projector(service: Service, ask: Callable[[], Status]) -> Reconciler | None:
    """The projector of a profile that names a RayService; elsewhere serving watches the ledger itself."""
    profile = service.project.profile
    if profile.rayservice is None:
        return None
    return Reconciler(service, RayService(KubernetesApi.connect(profile.namespace), profile.rayservice), ask)


def _resume(runs: Runs, *, attempts: int = 30, seconds: float = 10.0) -> None:
    """Start what was decided before this process; the ledger may come up later than it."""
    for _ in range(attempts):
        try:
            log.info("started again: %s", ", ".join(runs.resume()) or "nothing")
            return
        except Exception as error:
            log.warning("can't see yet what was decided: %s", error)
            time.sleep(seconds)


def _file(name: str) -> str | None:
    """One key of the service's mounted Secret, where there is one."""
    path = f"{SECRETS}/{name}"
    return path if storage.exists(path) else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m evermodel.control", description=__doc__)
    parser.add_argument("--host", default=LOCAL)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--tokens", default=_file("tokens.json"), help="who may call")
    parser.add_argument(
        "--session-key", default=_file("session-key"), help="key that signs sessions; absent: a new one"
    )
    parser.add_argument("--serving-token", default=_file("serving-token"), help="token that serving knows this by")
    said = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every look at serving's state
    try:
        serve(
            Project.open(),
            host=said.host,
            port=said.port,
            tokens=said.tokens,
            key=said.session_key,
            serving_token=said.serving_token,
        )
    except EvermodelError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
