"""All that the documentation names exists: links, commands with their options, pipelines, modules, paths and tests."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import typer

from evermodel.cli.app import app
from tests.docs import use_case_reference
from tests.support import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name / "README.md" for name in ("docker", "helm", "k8s", "serving")),
]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TEST = re.compile(r"tests/[\w/]+(?:\.py|/)(?:::(\w+))?")
SHORT_TEST = re.compile(r"`::(test_\w+)`")
MODULE = re.compile(r"`(evermodel(?:\.(?!yaml)[a-z_]+)+)")
VERB = re.compile(r"(?<![\w./-])evermodel ((?:[a-z]+ ?)+)")
COMMAND = re.compile(r"(?:^|\$ )(evermodel [^#`|>$\n]+)", re.M)
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(text: str) -> str:
    """The text without fenced blocks, whose brackets are no links."""
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M)


def code(text: str) -> str:
    """Fenced blocks and code spans, each on lines of its own; a continued command is joined to one line."""
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", text, flags=re.S | re.M)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", prose(text))]).replace("\\\n", " ")


def anchors(page: Path) -> set[str]:
    """The headings' anchors, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(page.read_text()), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-") for title in titles}


@cache
def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pages
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    dead = []
    for target in LINK.findall(prose(page.read_text())):
        if "://" in target:
            continue
        place, _, anchor = target.partition("#")
        found = (page.parent / place).resolve() if place else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            dead.append(target)
    assert not dead


@pages
def test_every_verb_and_option_is_one_of_the_command_lines(page: Path) -> None:
    root = typer.main.get_command(app)
    text, wrong = code(page.read_text()), []
    for words in VERB.findall(text):
        if resolve(root, words.split()) is None:
            wrong.append(words)
    for line in COMMAND.findall(text):
        words = [word for word in shlex.split(line.replace("'", ""), posix=False)[1:] if word]
        command = resolve(root, words)
        known = {option for one in getattr(command, "params", []) for option in (*one.opts, *one.secondary_opts)}
        wrong += [f"{line}: {word}" for word in words if re.match(r"--?[a-z]", word) and word not in known | {"--help"}]
    assert not wrong


def resolve(command: object, words: list[str]) -> object | None:
    """The command that the words name; None where the first of them that should be a verb isn't one."""
    while (known := getattr(command, "commands", None)) is not None:
        if not words or words[0] not in known:
            return None
        command, words = known[words[0]], words[1:]
    return command


@pages
def test_every_pipeline_that_is_run_is_there(page: Path) -> None:
    there = {path.stem for path in (ROOT / "pipelines").glob("[a-z]*.py")}
    named = re.findall(r"python -m pipelines (?:run|submit) ([a-z_]+)", code(page.read_text()))
    assert set(named) <= there


@pages
def test_every_benchmark_that_is_run_is_there(page: Path) -> None:
    named = re.findall(r"python -m benchmarks\.([a-z_]+)", code(page.read_text()))
    assert {name for name in named if not (ROOT / "benchmarks" / f"{name}.py").is_file()} == set()


@pages
def test_every_test_that_is_named_is_there(page: Path) -> None:
    text, missing, known = page.read_text(), [], set()
    for match in TEST.finditer(text):
        path = ROOT / match[0].partition("::")[0]
        if not path.exists() or (match[1] and match[1] not in functions_of(path)):
            missing.append(match[0])
        elif path.is_file():
            known |= functions_of(path)
    missing += [name for name in SHORT_TEST.findall(text) if name not in known]
    assert not missing


@pages
def test_every_module_that_is_named_is_there(page: Path) -> None:
    missing = []
    for name in MODULE.findall(page.read_text()):
        *head, last = name.split(".")
        parent = ROOT / "src" / Path(*head)
        source = parent.with_suffix(".py") if parent.with_suffix(".py").is_file() else parent / "__init__.py"
        module = (parent / f"{last}.py").is_file() or (parent / last / "__init__.py").is_file()
        if not (module or (source.is_file() and re.search(rf"\b{last}\b", source.read_text()))):
            missing.append(name)
    assert not missing


def test_the_tree_in_the_readme_is_the_tree() -> None:
    text = (ROOT / "README.md").read_text()
    block = text.partition("## The tree")[2].split("```")[1]
    named = [
        word for line in block.splitlines() for word in line.split("  ")[0].split() if word and not word.startswith("`")
    ]
    assert len(named) >= 9
    assert [word for word in named if not (ROOT / word).exists()] == []


def test_the_pages_of_the_docs_are_all_listed() -> None:
    listed = {(ROOT / "docs" / link).resolve() for link in LINK.findall((ROOT / "docs" / "README.md").read_text())}
    every = {page for page in PAGES if page.is_relative_to(ROOT / "docs")} - {ROOT / "docs" / "README.md"}
    decisions = {page for page in every if page.parent.name == "decisions" and page.name != "README.md"}
    assert every - decisions <= listed


def test_the_page_of_the_use_case_file_is_what_the_schema_says() -> None:
    why = "run: python tests/docs/use_case_reference.py > docs/reference/use_case.md"
    assert (ROOT / "docs" / "reference" / "use_case.md").read_text() == use_case_reference.render(), why


def test_the_readme_quotes_the_example() -> None:
    quoted = (ROOT / "README.md").read_text().partition("```python\n")[2].partition("```")[0].strip()
    assert quoted and quoted in (ROOT / "examples" / "loop.py").read_text()
