"""The rules of the house that a linter doesn't hold."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = sorted((ROOT / "src" / "evermodel").rglob("*.py"))
CLOCKS = {"now", "utcnow", "today", "time", "time_ns"}
#: The command line, serving and the scheduler's entry read the clock; everything else is told the time.
MAY_READ_THE_CLOCK = {"cli.py", "demo.py", "arguments.py", "serving"}
UNSAFE = {"pickle", "joblib", "dill", "cloudpickle", "marshal", "shelve"}


def _module(path: Path) -> str:
    return str(path.relative_to(ROOT / "src" / "evermodel"))


@pytest.mark.parametrize("path", LIBRARY, ids=_module)
def test_time_is_an_argument(path: Path) -> None:
    if _module(path).split("/")[0] in MAY_READ_THE_CLOCK:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCKS:
            owner = ast.unparse(node.func.value)
            assert owner not in {"datetime", "datetime.datetime", "date", "time"}, (
                f"{path.name}:{node.lineno} reads the clock"
            )


@pytest.mark.parametrize("path", LIBRARY, ids=_module)
def test_nothing_is_unpickled_and_only_storage_opens_paths(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not UNSAFE & {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in UNSAFE
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name != "torch.load"
            if path.name not in {"storage.py", "failpoint.py"}:  # storage itself stands on failpoint
                opens = name == "open" or name.endswith((".read_text", ".write_text", ".read_bytes", ".write_bytes"))
                assert not opens or name.startswith("storage."), f"{path.name}:{node.lineno}: {name} opens a path"


@pytest.mark.parametrize("path", sorted((ROOT / "components").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_a_component_is_short_and_without_logic(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 40
    assert "from __future__" not in text, "it breaks the component decorator"
    loops = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.While | ast.Try | ast.ClassDef)]
    assert not loops


def test_what_needs_no_torch_imports_without_it() -> None:
    light = [
        "use_case",
        "artifacts",
        "cli",
        "data.events",
        "data.ingest",
        "features.windows",
        "features.online",
        "ledger",
    ]
    code = "import sys\n" + "\n".join(f"import evermodel.{name}" for name in light)
    code += "\nheavy = {'torch', 'ray', 'feast', 'mlflow', 'evidently', 'kfp', 'sklearn'} & set(sys.modules)\nassert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
