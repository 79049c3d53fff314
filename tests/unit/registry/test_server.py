"""What MLflow's server is started with: places from the profile, a password from its file, no name too many."""

from fnmatch import fnmatch
from pathlib import Path

import pytest

from evermodel.errors import EvermodelError
from evermodel.profile import Profile
from evermodel.registry.server import backend_of, hosts_of, prepare


def test_the_password_goes_from_its_file_to_libpq_s(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("a:b\\c\n")
    backend = f"postgresql+psycopg://evermodel@db/mlflow?password_file={tmp_path / 'password'}"
    url, place, environment = prepare(backend, str(tmp_path / "artifacts"), str(tmp_path))
    assert (url, place) == ("postgresql+psycopg://evermodel@db/mlflow", str(tmp_path / "artifacts"))
    passfile = Path(environment["PGPASSFILE"])
    assert passfile.read_text() == "db:5432:*:evermodel:a\\:b\\\\c\n"
    assert passfile.stat().st_mode & 0o777 == 0o600
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == environment["DO_NOT_TRACK"] == "true"


def test_an_s3_uri_is_taken_apart_as_mlflow_wants_it(tmp_path: Path) -> None:
    artifacts = "s3://evermodel/state/mlflow?endpoint_override=http://s3:7070&scheme=http&region=us-east-1"
    _, place, environment = prepare("sqlite:///mlflow.db", artifacts, str(tmp_path))
    assert place == "s3://evermodel/state/mlflow"
    assert environment["MLFLOW_S3_ENDPOINT_URL"] == "http://s3:7070"
    assert environment["AWS_REGION"] == "us-east-1" and "PGPASSFILE" not in environment


def test_places_that_are_not_said_come_from_the_profile(tmp_path: Path) -> None:
    ledger = "postgresql+psycopg://evermodel@db:5432/evermodel"
    profile = Profile(root=tmp_path, ledger=ledger, ledger_password_file="/secrets/p", mlflow="http://x-mlflow:5000")
    assert backend_of(profile) == "postgresql+psycopg://evermodel@db:5432/mlflow?password_file=%2Fsecrets%2Fp"
    answered = hosts_of(profile).split(",")
    for host, ok in {
        "x-mlflow": 1,
        "x-mlflow:5000": 1,
        "localhost:80": 1,
        "x-mlflow.evil": 0,
        "localhost.evil": 0,
    }.items():
        assert any(fnmatch(host, one) for one in answered) == bool(ok), host
    with pytest.raises(EvermodelError, match="name --backend"):
        backend_of(Profile(root=tmp_path))
