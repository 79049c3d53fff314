"""The rules of the house that no linter holds."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support import ROOT, ray_scheduler

LIBRARY = sorted((ROOT / "src" / "evermodel").rglob("*.py"))
#: Declares and calls the library.
DECLARATIONS = sorted(
    path for folder in ("components", "pipelines", "serving", "feature_repo") for path in (ROOT / folder).rglob("*.py")
)
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
CLOCKS = {"now", "utcnow", "today", "time", "time_ns"}
#: The command line, serving and the scheduler read the clock, and the components of a scheduled run by `parsing`.
MAY_READ_THE_CLOCK = ("cli/", "serving/", "control/__main__.py", "retraining/scheduler.py", "clock.py", "parsing.py")
#: storage imports failpoint; the standby proxy reads the kernel's tables, in a container with little memory.
MAY_OPEN_PATHS = {"storage.py", "failpoint.py", "serving/standby_proxy.py"}
#: The part of Ray that enters at each module; import-linter sees `ray` only.
RAY_PARTS = {
    "ray.train": {"training/torch/distributed.py"},
    "ray.tune": {"training/tuning.py"},
    "ray.data": {"serving/batch.py"},
    "ray.serve": {"serving/deployments.py"},
}
UNSAFE = {"pickle", "joblib", "dill", "cloudpickle", "marshal", "shelve"}
#: Private words of an earlier version; the standard terms are used instead.
OLD_NAMES = (
    "carried", "chronicle", "crown", "desk", "door", "journey", "judging", "life", "lived", "market", "pace", "patiently",
    "question", "rehoused", "remembered", "replay", "settle", "sighting", "standing", "story", "tell", "teller", "tidy",
    "todo", "told", "turn", "understudy",
)  # fmt: skip
PARTS_OF_NAMES = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def _module(path: Path) -> str:
    return str(path.relative_to(ROOT / "src" / "evermodel"))


def _file(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


library = pytest.mark.parametrize("path", LIBRARY, ids=_module)
shipped = pytest.mark.parametrize("path", [*LIBRARY, *DECLARATIONS], ids=_file)


def clock_reads(text: str) -> list[str]:
    """The calls and references of a program that read the clock."""
    owners = {"datetime", "datetime.datetime", "date", "time", "clock"}
    found = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Attribute(attr=name, value=owner) if name in CLOCKS and ast.unparse(owner) in owners:
                found.append(f"{node.lineno}: {ast.unparse(node)}")
            case ast.ImportFrom(module="evermodel.clock" | "evermodel.parsing" | "time", names=names):
                clocks = {alias.name for alias in names} & {"now", "parse_time_or_now", "time", "time_ns"}
                found += [f"{node.lineno}: {name}" for name in sorted(clocks)]
    return found


@library
def test_time_is_an_argument(path: Path) -> None:
    if not _module(path).startswith(MAY_READ_THE_CLOCK):
        assert clock_reads(path.read_text()) == []


@pytest.mark.parametrize(
    "text", ["datetime.now(UTC)", "time.time()", "f(clock=clock.now)", "from evermodel.clock import now"]
)
def test_a_clock_read_is_found(text: str) -> None:
    assert clock_reads(text)
    assert clock_reads("self.now(); time.monotonic(); clock.micros(at)") == []


def unpickling(text: str) -> list[str]:
    """The parts of a program that could run code from a file's bytes."""
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


@shipped
def test_nothing_is_unpickled(path: Path) -> None:
    assert unpickling(path.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "import joblib.numpy_pickle as j", "from cloudpickle import loads", "from torch import load",
        "torch.load(path)", "read = torch.load", "pandas.read_pickle(path)", "np.load(path, allow_pickle=True)",
    ],
)  # fmt: skip
def test_unpickling_is_found(text: str) -> None:
    assert unpickling(text)
    assert unpickling("np.load(path, allow_pickle=False); safetensors.torch.load(data)") == []


@library
def test_only_storage_opens_paths(path: Path) -> None:
    if _module(path) in MAY_OPEN_PATHS:
        return
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            opens = name == "open" or name.endswith((".read_text", ".write_text", ".read_bytes", ".write_bytes"))
            assert not opens or name.startswith(("storage.", "files(")), (
                f"{path.name}:{node.lineno}: {name} opens a path"
            )


@library
def test_only_storage_takes_uris_apart(path: Path) -> None:
    if _module(path) != "storage.py":
        assert 'partition("?")' not in path.read_text(), "use storage.Uri"


def imported(program: ast.Module) -> Iterator[str]:
    """The full names that a program imports: `ray.train` of `from ray import train`."""
    for node in ast.walk(program):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("part", RAY_PARTS)
def test_each_part_of_ray_enters_at_one_module(part: str) -> None:
    importers = {
        _module(path) for path in LIBRARY if any(f"{name}.".startswith(f"{part}.") for name in imported(parsed(path)))
    }
    assert importers == RAY_PARTS[part]


@library
def test_a_module_is_at_most_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@shipped
def test_a_function_is_at_most_60_lines(path: Path) -> None:
    functions = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {node.name: node.end_lineno - node.lineno + 1 for node in functions if node.end_lineno - node.lineno >= 60}  # type: ignore[operator]
    assert long == {}


@pytest.mark.parametrize("path", DECLARATIONS, ids=_file)
def test_a_declaration_is_at_most_60_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60


@pytest.mark.parametrize("path", sorted((ROOT / "components").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_a_component_is_short_and_without_logic(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 40
    assert "from __future__" not in text, "it breaks the component decorator"
    loops = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.While | ast.Try | ast.ClassDef)]
    assert not loops


def names_of(text: str) -> set[str]:
    """The identifiers that a program defines or uses."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
    return names


def old_names(text: str) -> list[str]:
    words = {name: {part.lower() for part in PARTS_OF_NAMES.findall(name)} for name in names_of(text)}
    return sorted(name for name, parts in words.items() if parts & {*OLD_NAMES, *(f"{word}s" for word in OLD_NAMES)})


@shipped
def test_names_are_standard_terms(path: Path) -> None:
    assert not {part for part in path.with_suffix("").parts if part in OLD_NAMES}
    assert old_names(path.read_text()) == []


def test_an_old_name_is_found() -> None:
    text = "class AuthDoor: pass\ndef crown_it(todos): notepad.writes = restored"
    assert old_names(text) == ["AuthDoor", "crown_it", "todos"]


def test_light_modules_import_no_heavy_library() -> None:
    light = (
        "use_case", "records", "cli", "data.events", "data.ingest", "features.windows", "features.online_store", "ledger",
    )  # fmt: skip
    code = "import sys\n" + "\n".join(f"import evermodel.{name}" for name in light)
    code += "\nheavy = {'torch', 'ray', 'feast', 'mlflow', 'evidently', 'kfp', 'sklearn'} & set(sys.modules)\nassert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_files_that_start_a_ray_are_one_unit_of_work() -> None:
    units = {path: ray_scheduler.unit(f"{_file(path)}::test[a::b]", ROOT) for path in TESTS if path != Path(__file__)}
    starters = [
        path for path in units if re.search(r"\bray\.(init|shutdown)\(|deployments import start", path.read_text())
    ]
    assert {path.stem for path in starters} >= {"test_ray_train", "test_serve"}
    assert {units[path] for path in starters} == {ray_scheduler.GROUP}
    assert units[ROOT / "tests/unit/test_parsing.py"] == "tests/unit/test_parsing.py"


def test_import_contracts_hold() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
