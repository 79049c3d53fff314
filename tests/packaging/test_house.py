"""The rules of the house that a linter doesn't hold."""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support import ROOT, ray_scheduler

LIBRARY = sorted((ROOT / "src" / "evermodel").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
CLOCKS = {"now", "utcnow", "today", "time", "time_ns"}
#: The command line, serving and the scheduler's entry read the clock; everything else is told the time.
MAY_READ_THE_CLOCK = {"cli.py", "demo.py", "arguments.py", "serving"}
SHIPPED = LIBRARY + [
    path for room in ("serving", "components", "pipelines") for path in sorted((ROOT / room).rglob("*.py"))
]
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


def unpickling(text: str) -> list[str]:
    """What of a program could make objects of a file's bytes by running code in it."""
    found = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import():
                found += [alias.name for alias in node.names if alias.name.split(".")[0] in UNSAFE]
            case ast.ImportFrom(module=str(module)):
                names = {alias.name for alias in node.names}
                if module.split(".")[0] in UNSAFE or (module == "torch" and "load" in names):
                    found.append(f"{module}: {sorted(names)}")
            case ast.Attribute(attr="read_pickle" | "to_pickle"):
                found.append(ast.unparse(node))
            case ast.Attribute(attr="load", value=ast.Name(id="torch")):
                found.append("torch.load")
            case ast.keyword(arg="allow_pickle", value=value) if ast.unparse(value) != "False":
                found.append("allow_pickle")
    return found


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled(path: Path) -> None:
    assert unpickling(path.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "import joblib.numpy_pickle as j", "from cloudpickle import loads", "from torch import load",
        "torch.load(path)", "read = torch.load", "pandas.read_pickle(path)", "np.load(path, allow_pickle=True)",
    ],
)  # fmt: skip
def test_unpickling_is_seen(text: str) -> None:
    assert unpickling(text)
    assert unpickling("np.load(path, allow_pickle=False); safetensors.torch.load(data)") == []


@pytest.mark.parametrize("path", LIBRARY, ids=_module)
def test_only_storage_opens_paths(path: Path) -> None:
    # storage itself stands on failpoint; the understudy reads the kernel's tables, in a container of few MiB
    if path.name in {"storage.py", "failpoint.py", "understudy.py"}:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
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


def namesakes(tests: Path) -> dict[str, list[str]]:
    """Modules that are imported by name alone, where more than one module answers to it: the first on the path wins.

    pytest puts each test's folder on the path, in the order in which it comes to them; tests in a package have its name.
    """
    found = defaultdict(list)
    for path in sorted(tests.rglob("*.py")):
        in_package = path.name.startswith("test_") and (path.parent / "__init__.py").exists()
        if not in_package and not path.name.startswith(("conftest.", "__init__.")):
            found[path.stem].append(str(path.relative_to(tests)))
    others = sys.stdlib_module_names | {path.name for path in ROOT.iterdir() if path.is_dir()}
    return {name: paths for name, paths in found.items() if len(paths) > 1 or name in others}


def test_a_module_beside_the_tests_is_the_only_one_of_its_name(tmp_path: Path) -> None:
    assert namesakes(ROOT / "tests") == {}
    names = ("shop.py", "test_a.py", "conftest.py", "unit/shop.py", "unit/pumps.py", "unit/conftest.py", "json.py")
    for name in (*names, "unit/test_a.py", "part/__init__.py", "part/test_a.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {"json": ["json.py"], "shop": ["shop.py", "unit/shop.py"], "test_a": ["test_a.py", "unit/test_a.py"]}
    assert namesakes(tmp_path) == found


def test_the_files_that_start_a_ray_are_one_unit_of_work() -> None:
    units = {path.stem: ray_scheduler.unit(f"{path.relative_to(ROOT)}::test[a::b]", ROOT) for path in TESTS}
    starters = [path.stem for path in TESTS if path != Path(__file__) and "ray.shutdown(" in path.read_text()]
    assert {"test_ray_train", "test_serve"} <= set(starters)
    assert {units[name] for name in (*starters, "test_rayjob_s3", "test_rayjob_train")} == {ray_scheduler.GROUP}
    assert units["test_house"] == "tests/packaging/test_house.py"


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
