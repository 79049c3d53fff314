"""One story a session; who changes the ledger gets a copy of the project."""

import shutil
from pathlib import Path

import pytest

from evermodel.workflow import Project
from tests.support import ledger_history
from tests.unit.control.control_cases import Desk, write_tokens


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return ledger_history.live(tmp_path_factory.mktemp("history") / "project")


@pytest.fixture
def project(told: Project, tmp_path: Path) -> Project:
    """The story as it stands, to go on with. Releases stay where they are: only the ledger is a copy."""
    folder = tmp_path / "project"
    shutil.copytree(told.profile.root, folder)
    return Project.open(folder)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return write_tokens(tmp_path / "tokens.json")


@pytest.fixture
def desk(project: Project, tokens: Path) -> Desk:
    return Desk(project, tokens)


@pytest.fixture
def local(project: Project) -> Desk:
    return Desk(project)


@pytest.fixture
def watched(told: Project, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A service that no test changes."""
    return Desk(told, write_tokens(tmp_path_factory.mktemp("tokens") / "tokens.json"))
