"""Tokens: known by digest alone, read again when the file changes, and never said."""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from evermodel.credentials import Caller, Refusal, Tokens, admit
from evermodel.errors import InputError


def entry(name: str, token: str, role: str = "admin") -> dict[str, Any]:
    return {"name": name, "role": role, "sha256": hashlib.sha256(token.encode()).hexdigest()}


def write(path: Path, *entries: dict[str, Any]) -> Tokens:
    path.write_text(json.dumps(entries))
    return Tokens.from_file(path)


def test_a_token_names_its_caller(tmp_path: Path) -> None:
    tokens = write(tmp_path / "t.json", entry("ops", "one"), entry("eve", "two", "viewer"))
    caller = tokens.check("Bearer two")
    assert caller is not None and (caller.name, caller.role) == ("eve", "viewer")
    assert tokens.check("bearer  one ") is not None


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Bearer three", "Basic one", "one", "Bearer oné"])
def test_anything_else_names_nobody(tmp_path: Path, header: str | None) -> None:
    assert write(tmp_path / "t.json", entry("ops", "one")).check(header) is None


def test_the_digest_itself_is_no_token(tmp_path: Path) -> None:
    one = entry("ops", "one")
    assert write(tmp_path / "t.json", one).check(f"Bearer {one['sha256']}") is None


def test_a_changed_file_counts_at_once_and_a_broken_one_never(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "t.json"
    tokens = write(path, entry("ops", "one"))
    path.write_text(json.dumps([entry("ops", "new-one")]))
    assert tokens.check("Bearer one") is None and tokens.check("Bearer new-one") is not None
    with caplog.at_level(logging.WARNING):
        path.write_text('[{"name": "ops", "role": "admin", "sha256": "secret-canary"')
        assert tokens.check("Bearer new-one") is not None
        path.unlink()
        assert tokens.check("Bearer new-one") is not None
    assert "go on" in caplog.text and "canary" not in caplog.text
    path.write_text("[]")
    assert tokens.check("Bearer new-one") is None


def test_a_mounted_secret_changes_by_a_link(tmp_path: Path) -> None:
    for name, token in (("one", "one"), ("two", "two")):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "t.json", entry("ops", token))
    os.symlink("one", tmp_path / "data")
    tokens = Tokens.from_file(tmp_path / "data" / "t.json")
    os.symlink("two", tmp_path / "next")
    os.replace(tmp_path / "next", tmp_path / "data")
    assert tokens.check("Bearer one") is None and tokens.check("Bearer two") is not None


def test_a_session_ends_with_its_token(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    tokens = write(path, entry("ops", "one"))
    caller = tokens.check("Bearer one")
    assert caller is not None and tokens.still("ops", caller.mark) == caller
    assert tokens.still("eve", caller.mark) is None
    path.write_text(json.dumps([entry("ops", "another")]))
    assert tokens.still("ops", caller.mark) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "array"),
        ("[", "JSON"),
        (json.dumps([{**entry("ops", "one"), "role": "root"}]), "role"),
        (json.dumps([{**entry("ops", "one"), "sha256": "canary"}]), "sha256"),
        (json.dumps([{**entry("ops", "one"), "token": "canary"}]), "token"),
        (json.dumps([entry("ops", "one"), entry("eve", "one")]), "twice"),
    ],
)
def test_a_wrong_file_is_refused_without_quoting_it(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        Tokens.from_file(path)
    assert said in str(error.value) and "canary" not in str(error.value)
    assert entry("ops", "one")["sha256"] not in str(error.value)


def test_no_file_is_no_service(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        Tokens.from_file(tmp_path / "t.json")


def test_a_known_token_that_may_not_is_403_and_no_token_401(tmp_path: Path) -> None:
    tokens = write(tmp_path / "t.json", entry("eve", "two", "viewer"))
    roles = frozenset({"admin"})
    answers = [admit(tokens, header, roles) for header in (None, "Bearer x", "Bearer two")]  # type: ignore[arg-type]
    assert [answer.status for answer in answers if isinstance(answer, Refusal)] == [401, 401, 403]
    assert isinstance(admit(tokens, "Bearer two", None), Caller)
