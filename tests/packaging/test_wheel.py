"""The wheel has one top-level name, and writes a complete project."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(out)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_one_top_level_name(wheel: Path) -> None:
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"evermodel"}


def test_a_project_that_the_wheel_writes_is_complete(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "NO_COLOR": "1"}
    run = [sys.executable, "-P", "-c", "from evermodel.cli import main; main()"]
    subprocess.run([*run, "init", "shop"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    shop = tmp_path / "shop"
    assert (shop / "evermodel.yaml").is_file() and (shop / "use_cases" / "restaurants.yaml").is_file()
    assert (shop / "feature_repo" / "repo.py").is_file() and (shop / "serving" / "app.py").is_file()
    shown = subprocess.run([*run, "status"], cwd=shop, env=environment, check=True, capture_output=True, text=True)
    assert "restaurants" in shown.stdout
    compiled = subprocess.run(
        [sys.executable, "-m", "pipelines", "compile", "--out", str(tmp_path / "ir")],
        cwd=shop,
        env={**environment, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(shop)])},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "training.yaml" in compiled.stdout


def test_init_refuses_a_folder_that_is_not_empty(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "mine").write_text("mine")
    done = subprocess.run(
        [sys.executable, "-m", "evermodel.cli", "init", "shop"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "not empty" in done.stderr
    assert [path.name for path in (tmp_path / "shop").iterdir()] == ["mine"]
