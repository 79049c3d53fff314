"""`python -m evermodel.registry.server`: MLflow's server on PostgreSQL, with its artifacts behind it on S3.

MLflow takes a database's password in a URL only, which the process list and the environment would show. Here it comes
from a file and goes on in a file that libpq reads (PGPASSFILE, mode 0600, in a folder of this start). This process
brings the registry's tables up to date, then becomes MLflow's; nothing of MLflow is imported.

What isn't said comes from the profile: the database `mlflow` beside the ledger's, artifacts in `{state}/mlflow`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import Annotated
from urllib.parse import parse_qs, urlsplit

import typer
from sqlalchemy import make_url

from evermodel import storage
from evermodel.errors import EvermodelError
from evermodel.pgpass import write_passfile
from evermodel.profile import Profile, load_profile

DATABASE = "mlflow"
QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # half a dozen processes more, and nothing here for them to do
}
app = typer.Typer(add_completion=False)


def prepare(backend: str, artifacts: str, folder: str) -> tuple[str, str, dict[str, str]]:
    """The database's URL and the artifacts' place as MLflow takes them, and the environment that goes with them.

    backend: a SQLAlchemy URL that may name a `password_file`. artifacts: a path, or an S3 URI with its endpoint.
    folder: what is written for MLflow to read.
    """
    url, passfile = write_passfile(backend, folder)
    environment = QUIET if passfile is None else {**QUIET, "PGPASSFILE": str(passfile)}
    place, _, query = artifacts.partition("?")
    wanted = {key: values[0] for key, values in parse_qs(query).items()}
    if endpoint := wanted.get("endpoint_override"):
        whole = endpoint if "://" in endpoint else f"{wanted.get('scheme', 'https')}://{endpoint}"
        environment = {**environment, "MLFLOW_S3_ENDPOINT_URL": whole}
    if region := wanted.get("region"):
        environment = {**environment, "AWS_REGION": region, "AWS_DEFAULT_REGION": region}
    return url, place, environment


def backend_of(profile: Profile) -> str:
    """The registry's database: the ledger's server, another name."""
    url = make_url(profile.ledger_url)
    if url.get_backend_name() != "postgresql":
        raise EvermodelError(f"ledger {url} is no server with a place for MLflow's tables: name --backend")
    return url.set(database=DATABASE).render_as_string(hide_password=False)


def hosts_of(profile: Profile) -> str:
    """The names that a request may give as its host, with any port: what the profile calls this server, and this machine.

    A probe of `/health` may give any.
    """
    names = ["localhost", "127.0.0.1", urlsplit(profile.mlflow).hostname]
    return ",".join(f"{name},{name}:*" for name in names if name)


@app.command()
def serve(
    host: str = "127.0.0.1",
    port: int = 5000,
    backend: Annotated[str, typer.Option(help="SQLAlchemy URL of MLflow's database; may name a password_file")] = "",
    artifacts: Annotated[str, typer.Option(help="path or S3 URI of the artifacts")] = "",
    allowed_hosts: Annotated[str, typer.Option(help="Host headers that are answered, comma between; * in names")] = "",
    workers: int = 1,
) -> None:
    """Start MLflow's server in this process's place."""
    if not (backend and artifacts and allowed_hosts):
        profile = load_profile()
        backend = backend or backend_of(profile)
        artifacts = artifacts or storage.join(profile.state_uri, DATABASE)
        allowed_hosts = allowed_hosts or hosts_of(profile)
    folder = tempfile.mkdtemp(prefix="evermodel-mlflow-")  # as long as the server lives: it signs in again and again
    url, place, more = prepare(backend, artifacts, folder)
    environment = {**os.environ, **more}
    program = [sys.executable, "-m", "mlflow"]
    subprocess.run([*program, "db", "upgrade", url], env=environment, check=True)
    options = {
        "--host": host,
        "--port": str(port),
        "--workers": str(workers),
        "--backend-store-uri": url,
        "--artifacts-destination": place,
        "--allowed-hosts": allowed_hosts,
    }
    words = [word for option in options.items() for word in option]
    os.execve(sys.executable, [*program, "server", "--serve-artifacts", *words], environment)


if __name__ == "__main__":
    try:
        app()
    except EvermodelError as error:
        sys.exit(f"error: {error}")
