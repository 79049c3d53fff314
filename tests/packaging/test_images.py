"""The images hold the tested versions of all packages, by hash, and only the needed part of the checkout."""

import re
from pathlib import Path

import pytest

from tests.support import ROOT

PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


def pins(path: Path) -> dict[str, tuple[str, frozenset[str]]]:
    text = path.read_text() if path.read_text().endswith("\n") else path.read_text() + "\n"
    pinned = {name: (version, frozenset(hashes.split())) for name, version, hashes in PIN.findall(text)}
    assert len(pinned) == len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE)), f"{path.name} has a line without a hash"
    return pinned


@pytest.mark.parametrize("name", ["control", "torch", "build"])
def test_the_lock_of_an_image_agrees_with_requirements_lock(name: str) -> None:
    tested = pins(ROOT / "requirements.lock")
    uv = re.search(r"^UV_VERSION = (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for package, (version, hashes) in pins(ROOT / "docker" / f"{name}.lock").items():
        if package == "uv":
            assert uv is not None and version == uv[1]
            continue
        assert tested[package][0] == version, f"{package}: run `make lock`"
        assert hashes - {"\\"} == tested[package][1] - {"\\"}, package


def test_control_has_no_torch_and_no_image_has_development_tools() -> None:
    control, torch = pins(ROOT / "docker" / "control.lock"), pins(ROOT / "docker" / "torch.lock")
    assert "torch" in torch
    only_torch = [name for name in control if name in {"torch", "triton"} or name.startswith(("nvidia-", "cuda-"))]
    assert not only_torch
    development = {"pytest", "ruff", "hypothesis", "import-linter", "schemathesis"}
    assert not development & {*control, *torch}


def test_the_build_context_is_what_the_build_copies() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    text = (ROOT / "docker" / "Dockerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for word in line.split()}
    copied = {"docker/*.lock" if word.endswith((".lock", "}")) else word for word in copied}
    assert copied == allowed
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()
    assert text.count("USER 1000:1000") == 2, "each role ends as a numeric user"
