"""`python -m evermodel.registry.server`: MLflow's server on PostgreSQL, with its artifacts behind it on S3.

MLflow takes a database's password only in a URL, which the process list and the environment would show. Here the
password comes from a file and is passed on in a file that libpq reads (PGPASSFILE, mode 0600, in a temporary folder).
This process upgrades the registry's tables, then becomes MLflow's server; it imports nothing of MLflow.

Defaults come from the profile: the database `mlflow` beside the ledger's, artifacts in `{state}/mlflow`.
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
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # six more processes without work
}
app = typer.Typer(add_completion=False)


def prepare_settings(backend: str, artifacts: str, folder: str) -> tuple[str, str, dict[str, str]]:
    """The database's URL and the artifacts' place in MLflow's form, and the environment variables that they need.

    backend: a SQLAlchemy URL that may name a `password_file`. artifacts: a path, or an S3 URI with its endpoint.
    folder: gets the password file.
    """
    url, passfile = write_passfile(backend, folder)
    environment = QUIET if passfile is None else {**QUIET, "PGPASSFILE": str(passfile)}
    location = storage.Uri.parse(artifacts)
    options = {key: values[0] for key, values in parse_qs(location.query).items()}
    if endpoint := options.get("endpoint_override"):
        url_of_endpoint = endpoint if "://" in endpoint else f"{options.get('scheme', 'https')}://{endpoint}"
        environment = {**environment, "MLFLOW_S3_ENDPOINT_URL": url_of_endpoint}
    if region := options.get("region"):
        environment = {**environment, "AWS_REGION": region, "AWS_DEFAULT_REGION": region}
    return url, location.path, environment


def backend_url(profile: Profile) -> str:
    """The URL of the registry's database: the ledger's server with another database name."""
    url = make_url(profile.ledger_url)
    if url.get_backend_name() != "postgresql":
        raise EvermodelError(
            f"ledger {url} is no PostgreSQL server, so it has no place for MLflow's tables: name --backend"
        )
    return url.set(database=DATABASE).render_as_string(hide_password=False)


def host_names(profile: Profile) -> str:
    """The Host headers that a request may have: the profile's name of this server and this machine's, with any port.

    A probe of `/health` may have any.
    """
    names = ["localhost", "127.0.0.1", urlsplit(profile.mlflow).hostname]
    return ",".join(f"{name},{name}:*" for name in names if name)


@app.command()
def serve(
    host: str = "127.0.0.1",
    port: int = 5000,
    backend: Annotated[str, typer.Option(help="SQLAlchemy URL of MLflow's database; may name a password_file")] = "",
    artifacts: Annotated[str, typer.Option(help="path or S3 URI of the artifacts")] = "",
    allowed_hosts: Annotated[str, typer.Option(help="allowed Host headers, separated by commas; * is a wildcard")] = "",
    workers: int = 1,
) -> None:
    """Replace this process by MLflow's server."""
    if not (backend and artifacts and allowed_hosts):
        profile = load_profile()
        backend = backend or backend_url(profile)
        artifacts = artifacts or storage.join(profile.state_uri, DATABASE)
        allowed_hosts = allowed_hosts or host_names(profile)
    folder = tempfile.mkdtemp(prefix="evermodel-mlflow-")  # not removed: the server signs in again and again
    url, place, variables = prepare_settings(backend, artifacts, folder)
    environment = {**os.environ, **variables}
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
