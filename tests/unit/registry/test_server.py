"""The settings of MLflow's server: defaults from the profile, a password file, allowed host names."""

from fnmatch import fnmatch
from pathlib import Path

import pytest

from evermodel.errors import EvermodelError
from evermodel.profile import Profile
from evermodel.registry.server import backend_url, host_names, prepare_settings


def test_the_password_is_passed_on_in_a_file_for_libpq(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("a:b\\c\n")
    backend = f"postgresql+psycopg://evermodel@db/mlflow?password_file={tmp_path / 'password'}"
    url, place, environment = prepare_settings(backend, str(tmp_path / "artifacts"), str(tmp_path))
    assert (url, place) == ("postgresql+psycopg://evermodel@db/mlflow", str(tmp_path / "artifacts"))
    passfile = Path(environment["PGPASSFILE"])
    assert passfile.read_text() == "db:5432:*:evermodel:a\\:b\\\\c\n"
    assert passfile.stat().st_mode & 0o777 == 0o600
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == environment["DO_NOT_TRACK"] == "true"


def test_an_s3_uri_is_split_for_mlflow(tmp_path: Path) -> None:
    artifacts = "s3://evermodel/state/mlflow?endpoint_override=http://s3:7070&scheme=http&region=us-east-1"
    _, place, environment = prepare_settings("sqlite:///mlflow.db", artifacts, str(tmp_path))
    assert place == "s3://evermodel/state/mlflow"
    assert environment["MLFLOW_S3_ENDPOINT_URL"] == "http://s3:7070"
    assert environment["AWS_REGION"] == "us-east-1" and "PGPASSFILE" not in environment


def test_defaults_come_from_the_profile(tmp_path: Path) -> None:
    ledger = "postgresql+psycopg://evermodel@db:5432/evermodel"
    profile = Profile(root=tmp_path, ledger=ledger, ledger_password_file="/secrets/p", mlflow="http://x-mlflow:5000")
    assert backend_url(profile) == "postgresql+psycopg://evermodel@db:5432/mlflow?password_file=%2Fsecrets%2Fp"
    allowed = host_names(profile).split(",")
    for host, ok in {
        "x-mlflow": 1,
        "x-mlflow:5000": 1,
        "localhost:80": 1,
        "x-mlflow.evil": 0,
        "localhost.evil": 0,
    }.items():
        assert any(fnmatch(host, pattern) for pattern in allowed) == bool(ok), host
    with pytest.raises(EvermodelError, match="name --backend"):
        backend_url(Profile(root=tmp_path))
