"""`python -m evermodel.control`: the control service of a project, until SIGTERM.

Without `--tokens` it listens on 127.0.0.1 for the local user only; any other address needs tokens. `--tokens`,
`--session-key` and `--serving-token` are paths of files. They default to the keys of the Secret that is mounted at
`/etc/evermodel/secrets/control`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from threading import Thread

import tenacity
import uvicorn

from evermodel import clock, storage
from evermodel.control.actions import RunLauncher
from evermodel.control.app import create_control
from evermodel.control.auth.session import Sessions, session_key
from evermodel.control.rollout.rayservice import RayService
from evermodel.control.rollout.reconciler import Reconciler
from evermodel.control.service import Service, ServingClient
from evermodel.credentials import Tokens
from evermodel.errors import EvermodelError, InputError
from evermodel.execution.kubernetes_api import KubernetesApi
from evermodel.profile import Profile
from evermodel.workflow import Project

LOCAL = "127.0.0.1"
SECRETS = "/etc/evermodel/secrets/control"
RESUME_ATTEMPTS, RESUME_WAIT_SECONDS = 30, 10.0
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
    """Serves until interrupted. `tokens`, `key` and `serving_token` are paths of files."""
    if tokens is None and host != LOCAL:
        raise InputError(f"without --tokens the control service listens on {LOCAL} only, not on {host}")
    serving = ServingClient(serving_url(project.profile), token_file=serving_token)
    known_tokens = Tokens.from_file(tokens) if tokens else None
    service = Service(project, clock=clock.now, tokens=known_tokens, serving=serving.status)
    sessions, launcher = Sessions(session_key(key), clock=service.clock), RunLauncher(service)
    reconciler = _make_reconciler(service, serving)
    app = create_control(service, sessions=sessions, launcher=launcher, rollout=reconciler)
    if reconciler is not None:
        reconciler.start()
        Thread(target=_resume, args=(launcher,), name="resume", daemon=True).start()
    try:
        uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False, server_header=False)
    finally:
        if reconciler is not None:
            reconciler.stop()


def serving_url(profile: Profile) -> str:
    """Serving's URL: from the profile, or else of the Kubernetes Service that KubeRay makes for a RayService."""
    url = profile.serve_url
    if profile.rayservice is None or url != Profile.model_fields["serve_url"].default:
        return url
    return f"http://{profile.rayservice}-serve-svc:8000"


def _make_reconciler(service: Service, serving: ServingClient) -> Reconciler | None:
    """The reconciler, if the profile names a RayService; otherwise serving reads the ledger itself."""
    profile = service.project.profile
    if profile.rayservice is None:
        return None
    rayservice = RayService(KubernetesApi.connect(profile.namespace), profile.rayservice)
    return Reconciler(service, rayservice, serving.status)


def _resume(launcher: RunLauncher) -> None:
    """Starts the runs that were decided before this process began. The ledger may become available later than it."""
    attempts = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(RESUME_ATTEMPTS),
        wait=tenacity.wait_fixed(RESUME_WAIT_SECONDS),
        before_sleep=lambda state: log.warning("pending decisions: %s", state.outcome and state.outcome.exception()),
    )
    try:
        log.info("resumed runs: %s", ", ".join(attempts(launcher.resume)) or "none")
    except tenacity.RetryError as error:
        log.error("pending decisions were not read, and their runs not started: %s", error.last_attempt.exception())


def _file(name: str) -> str | None:
    """The path of one key of the mounted Secret, or None if it is not there."""
    path = f"{SECRETS}/{name}"
    return path if storage.exists(path) else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m evermodel.control", description=__doc__)
    parser.add_argument("--host", default=LOCAL)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--tokens", default=_file("tokens.json"), help="tokens of the callers")
    parser.add_argument(
        "--session-key", default=_file("session-key"), help="key that signs sessions; absent: a random one"
    )
    parser.add_argument("--serving-token", default=_file("serving-token"), help="token for reading serving's status")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every read of serving's status
    try:
        serve(
            Project.open(),
            host=arguments.host,
            port=arguments.port,
            tokens=arguments.tokens,
            key=arguments.session_key,
            serving_token=arguments.serving_token,
        )
    except EvermodelError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
