"""Real servers for tests, on 127.0.0.1 and in a folder of their own: PostgreSQL, Redis, and an S3 gateway on a folder.

Each is a context manager that skips, with the reason, if its program is absent, and that stops what it started. A test
stops and starts a server (`server.stop()`, `server.start()`) on the same port; the server keeps its data. Tests that
start one have the mark `server`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import wait_until

START_SECONDS = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A program that listens on `port`. `ready` returns whether it answers."""

    command: list[str]
    folder: Path
    port: int
    password: str
    environment: dict[str, str] = field(default_factory=dict)
    user: str | None = None
    crash: signal.Signals = signal.SIGKILL
    ready: Callable[[Server], bool] = lambda server: server.listens()
    process: subprocess.Popen[bytes] | None = None

    @property
    def password_file(self) -> Path:
        return self.folder / "password"

    def start(self) -> None:
        more: dict[str, Any] = {"user": self.user, "group": self.user, "extra_groups": []} if self.user else {}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, env={"PATH": os.environ["PATH"], **self.environment},
                stdout=log, stderr=log, **more,
            )  # fmt: skip
        try:
            wait_until(self._answers, START_SECONDS, "it doesn't answer")
        except AssertionError as error:
            self.stop()
            raise RuntimeError(f"{self.command[0]}: {error}\n{(self.folder / 'log').read_text()[-2000:]}") from None

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, "it ended"
        return self.ready(self)

    def stop(self) -> None:
        """Ends it at once, as a crash does."""
        if self.process is not None:
            self.process.send_signal(self.crash)
            self.process.wait()
            self.process = None

    def listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def _running(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


def _folder(password: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="evermodel-server-"))
    (folder / "password").write_text(password + "\n")
    return folder


# redis ---------------------------------------------------------------------------------------------------------------


@contextmanager
def redis_server() -> Iterator[Server]:
    """A Redis with a password. It keeps its data over a restart."""
    if (program := shutil.which("redis-server")) is None:
        pytest.skip("redis-server is not on PATH (Debian: redis-server)")
    password, port = secrets.token_hex(8), free_port()
    folder = _folder(password)
    (folder / "redis.conf").write_text(
        f"bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir {folder}\nappendonly yes\nappendfsync always\n"
    )
    with _running(Server([program, str(folder / "redis.conf")], folder, port, password)) as server:
        yield server


# postgresql ----------------------------------------------------------------------------------------------------------


def _postgresql_programs() -> Path:
    if found := shutil.which("initdb"):
        return Path(found).parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not installed:
        pytest.skip("PostgreSQL's initdb is neither on PATH nor in /usr/lib/postgresql (Debian: postgresql)")
    return installed[-1].parent


def _accepts(server: Server) -> bool:
    import psycopg

    try:
        psycopg.connect(
            f"host=127.0.0.1 port={server.port} user=evermodel dbname=postgres password={server.password}",
            connect_timeout=2,
        ).close()
    except psycopg.OperationalError:
        return False
    return True


@contextmanager
def postgresql_server() -> Iterator[Server]:
    """A PostgreSQL whose superuser `evermodel` has a password (scram); `database_url` makes a database in it."""
    pytest.importorskip("psycopg", reason="psycopg (extra k8s) is not installed")
    programs = _postgresql_programs()
    user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
    password, port = secrets.token_hex(8), free_port()
    folder = _folder(password)
    if user:
        shutil.chown(folder, user, user)
    folder.chmod(0o755)
    data = folder / "data"
    more: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user else {}
    options = ["--username=evermodel", f"--pwfile={folder / 'password'}", "--auth=scram-sha-256", "--no-sync"]
    subprocess.run(
        [programs / "initdb", "-D", data, *options, "--encoding=UTF8", "--locale=C"],
        check=True, cwd=folder, capture_output=True, env={"PATH": os.environ["PATH"]}, **more,
    )  # fmt: skip
    settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
    command = [str(programs / "postgres"), "-D", str(data)]
    command += [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    crash = signal.SIGQUIT  # ends its children too; they and the clients see a crash
    with _running(Server(command, folder, port, password, user=user, ready=_accepts, crash=crash)) as server:
        yield server


def database_url(server: Server, *, template: str = "template1") -> str:
    """The URL of a new database, a copy of `template`. It names the file of the password, not the password."""
    import psycopg

    name = f"test_{secrets.token_hex(6)}"
    where = f"host=127.0.0.1 port={server.port} user=evermodel dbname=postgres password={server.password}"
    with psycopg.connect(where, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")  # type: ignore[call-overload]
    return f"postgresql+psycopg://evermodel@127.0.0.1:{server.port}/{name}?password_file={server.password_file}"


# s3 ------------------------------------------------------------------------------------------------------------------


@cache
def _s3_keys() -> tuple[str, str]:
    """One pair for each process, because a client may cache what it read from the credentials file."""
    return secrets.token_hex(8), secrets.token_hex(16)


@contextmanager
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of an empty bucket; the environment names the file with its credentials."""
    if (program := shutil.which("versitygw")) is None:
        pytest.skip("versitygw is not on PATH (go install github.com/versity/versitygw/cmd/versitygw@latest)")
    pytest.importorskip("boto3", reason="boto3 (extra k8s) is not installed")
    (access, password), port = _s3_keys(), free_port()
    folder = _folder(password)
    for name in ("buckets", "meta"):
        (folder / name).mkdir()
    (folder / "credentials").write_text(
        f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {password}\n"
    )
    command = [program, "--port", f"127.0.0.1:{port}", "posix", "--sidecar", str(folder / "meta")]
    keys = {"ROOT_ACCESS_KEY": access, "ROOT_SECRET_KEY": password}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    server = Server([*command, str(folder / "buckets")], folder, port, password, environment=keys)
    with _running(server):
        import boto3

        client = boto3.session.Session().client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="evermodel")
        client.close()
        yield f"s3://evermodel/state?endpoint_override=http://127.0.0.1:{port}&scheme=http&region=us-east-1"
