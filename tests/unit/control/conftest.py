"""One project with a history for the session; a test that changes the ledger gets a copy of it."""

import shutil
from pathlib import Path

import pytest

from evermodel.workflow import Project
from tests.support import ledger_history
from tests.unit.control.control_cases import ControlHarness, write_tokens


@pytest.fixture(scope="session")
def project_with_history(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return ledger_history.project_with_history(tmp_path_factory.mktemp("history") / "project")


@pytest.fixture
def project(project_with_history: Project, tmp_path: Path) -> Project:
    """A copy to change. Its ledger still names the releases in the session's project."""
    folder = tmp_path / "project"
    shutil.copytree(project_with_history.profile.root, folder)
    return Project.open(folder)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return write_tokens(tmp_path / "tokens.json")


@pytest.fixture
def control(project: Project, tokens: Path) -> ControlHarness:
    return ControlHarness(project, tokens)


@pytest.fixture
def local(project: Project) -> ControlHarness:
    """The local profile: without tokens."""
    return ControlHarness(project)


@pytest.fixture
def unchanged(project_with_history: Project, tmp_path: Path) -> ControlHarness:
    """A service for tests that only read; faster, because nothing is copied."""
    return ControlHarness(project_with_history, write_tokens(tmp_path / "tokens.json"))
