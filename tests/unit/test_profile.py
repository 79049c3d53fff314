"""The settings of a project: its file, the environment that overrides it, and the error of a wrong value."""

from pathlib import Path

import pytest

from evermodel.errors import InputError
from evermodel.profile import find_project, load_profile


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("STATE", "LEDGER", "MLFLOW", "PROJECT", "NUM_WORKERS"):
        monkeypatch.delenv(f"EVERMODEL_{name}", raising=False)
    (tmp_path / "evermodel.yaml").write_text("")
    return tmp_path


def test_a_project_is_found_from_any_folder_below(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = root / "use_cases" / "deep"
    below.mkdir(parents=True)
    assert find_project(below) == root
    monkeypatch.chdir(below)
    assert load_profile().root == root


def test_the_environment_may_name_the_project(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.setenv("EVERMODEL_PROJECT", str(root))
    assert load_profile().root == root


def test_outside_a_project_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no evermodel\.yaml in .* or above"):
        find_project(tmp_path)


def test_places_are_below_the_root(root: Path) -> None:
    profile = load_profile(root)
    assert profile.state_uri == f"{root}/.evermodel"
    assert profile.ledger_url == f"sqlite:///{root}/.evermodel/ledger.db"
    assert profile.mlflow_uri == f"sqlite:///{root}/.evermodel/mlflow.db"
    assert profile.place("fraud", "events") == f"{root}/.evermodel/fraud/events"
    assert profile.online_features == f"{root}/.evermodel/online.db"


def test_a_remote_state_moves_what_is_in_it(root: Path) -> None:
    (root / "evermodel.yaml").write_text("state: s3://models/evermodel\nledger: postgresql://db/evermodel\n")
    profile = load_profile(root)
    assert profile.place("fraud") == "s3://models/evermodel/fraud"
    assert profile.ledger_url == "postgresql://db/evermodel"
    with pytest.raises(InputError, match="name an `online_store`"):
        _ = profile.online_features
    with pytest.raises(InputError, match="name a local folder as `scratch`"):
        _ = profile.scratch_folder


def test_temporary_files_are_in_the_state_or_in_scratch(root: Path) -> None:
    assert load_profile(root).scratch_folder == root / ".evermodel"
    (root / "evermodel.yaml").write_text("state: s3://models/evermodel\nscratch: /tmp/evermodel\n")
    assert load_profile(root).scratch_folder == Path("/tmp/evermodel")


def test_a_password_file_is_named_and_not_read(root: Path) -> None:
    (root / "evermodel.yaml").write_text(
        "ledger: postgresql+psycopg://evermodel@db/evermodel?sslmode=require\n"
        "ledger_password_file: /secrets/postgresql/password\n"
        "online_store: redis://redis:6379/0\n"
    )
    profile = load_profile(root)
    assert profile.ledger_url.endswith("/evermodel?sslmode=require&password_file=/secrets/postgresql/password")
    assert profile.online_features == "redis://redis:6379/0"


def test_a_password_in_a_uri_is_not_shown(root: Path) -> None:
    (root / "evermodel.yaml").write_text(
        "ledger: postgresql://anna:canary@db/evermodel\nonline_store: redis://:canary@redis:6379/0\n"
    )
    profile = load_profile(root)
    shown = profile.model_dump(mode="json")
    assert "canary" not in str(shown) and "canary" in profile.ledger_url
    assert shown["ledger"] == "postgresql://anna:***@db/evermodel"


def test_the_environment_wins_over_the_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "evermodel.yaml").write_text("num_workers: 1\nstate: here\n")
    monkeypatch.setenv("EVERMODEL_NUM_WORKERS", "2")
    profile = load_profile(root)
    assert (profile.num_workers, profile.state_uri) == (2, f"{root}/here")


def test_an_empty_file_is_the_defaults(root: Path) -> None:
    (root / "evermodel.yaml").write_text("# only a comment\n")
    assert load_profile(root).launcher == "local"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_worker: 2\n", r"unknown key 'num_worker'; did you mean 'num_workers'\?"),
        ("num_workers: many\n", r"num_workers = 'many': .*integer"),
        ("launcher: lokal\n", r"launcher = 'lokal': .*'local', 'kfp' or 'job'"),
        ("profile: local\n", r"profile has no effect any more; .*remove the key"),
        ("ray_address: auto\n", r"ray_address has no effect any more; set .*RAY_ADDRESS"),
        ("root: /elsewhere\n", r"unknown key 'root'"),
        ("- launcher\n", r"a mapping"),
        ("launcher: [\n", r"evermodel\.yaml"),
    ],
)
def test_a_wrong_value_is_an_error_with_its_file(root: Path, text: str, message: str) -> None:
    (root / "evermodel.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        load_profile(root)


def test_a_wrong_value_of_the_environment_is_an_error_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERMODEL_NUM_WORKERS", "many")
    with pytest.raises(InputError, match=r"num_workers"):
        load_profile(root)
