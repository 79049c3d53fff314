"""Tokens: compared by digest alone, read again when the file changes, and never shown."""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from evermodel.credentials import Caller, Refusal, Tokens, authorize
from evermodel.errors import InputError


def entry(name: str, token: str, role: str = "admin") -> dict[str, Any]:
    return {"name": name, "role": role, "sha256": hashlib.sha256(token.encode()).hexdigest()}


def write(path: Path, *entries: dict[str, Any]) -> Tokens:
    path.write_text(json.dumps(entries))
    return Tokens.from_file(path)


def test_a_token_identifies_its_caller(tmp_path: Path) -> None:
    tokens = write(tmp_path / "t.json", entry("ops", "one"), entry("eve", "two", "viewer"))
    caller = tokens.authenticate("Bearer two")
    assert caller is not None and (caller.name, caller.role) == ("eve", "viewer")
    assert tokens.authenticate("bearer  one ") is not None


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Bearer three", "Basic one", "one", "Bearer oné"])
def test_any_other_header_identifies_nobody(tmp_path: Path, header: str | None) -> None:
    assert write(tmp_path / "t.json", entry("ops", "one")).authenticate(header) is None


def test_the_digest_itself_is_not_a_token(tmp_path: Path) -> None:
    ops = entry("ops", "one")
    assert write(tmp_path / "t.json", ops).authenticate(f"Bearer {ops['sha256']}") is None


def test_a_changed_file_is_used_at_once_and_a_broken_one_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.json"
    tokens = write(path, entry("ops", "one"))
    path.write_text(json.dumps([entry("ops", "new-one")]))
    assert tokens.authenticate("Bearer one") is None and tokens.authenticate("Bearer new-one") is not None
    with caplog.at_level(logging.WARNING):
        path.write_text('[{"name": "ops", "role": "admin", "sha256": "secret-canary"')
        assert tokens.authenticate("Bearer new-one") is not None
        path.unlink()
        assert tokens.authenticate("Bearer new-one") is not None
    assert "stay valid" in caplog.text and "canary" not in caplog.text
    path.write_text("[]")
    assert tokens.authenticate("Bearer new-one") is None


def test_a_mounted_secret_that_changes_its_link_is_read_again(tmp_path: Path) -> None:
    for name, token in (("one", "one"), ("two", "two")):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "t.json", entry("ops", token))
    os.symlink("one", tmp_path / "data")
    tokens = Tokens.from_file(tmp_path / "data" / "t.json")
    os.symlink("two", tmp_path / "next")
    os.replace(tmp_path / "next", tmp_path / "data")
    assert tokens.authenticate("Bearer one") is None and tokens.authenticate("Bearer two") is not None


def test_a_session_ends_with_its_token(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    tokens = write(path, entry("ops", "one"))
    caller = tokens.authenticate("Bearer one")
    assert caller is not None and tokens.find_caller("ops", caller.token_id) == caller
    assert tokens.find_caller("eve", caller.token_id) is None
    path.write_text(json.dumps([entry("ops", "another")]))
    assert tokens.find_caller("ops", caller.token_id) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "array"),
        ("[", "JSON"),
        (json.dumps([{**entry("ops", "one"), "role": "root"}]), "role"),
        (json.dumps([{**entry("ops", "one"), "sha256": "canary"}]), "sha256"),
        (json.dumps([{**entry("ops", "one"), "token": "canary"}]), "token"),
        (json.dumps([entry("ops", "one"), entry("eve", "one")]), "twice"),
    ],
)
def test_a_wrong_file_is_refused_without_quoting_it(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        Tokens.from_file(path)
    assert message in str(error.value) and "canary" not in str(error.value)
    assert entry("ops", "one")["sha256"] not in str(error.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        Tokens.from_file(tmp_path / "t.json")


def test_a_role_that_is_not_allowed_is_403_and_no_token_is_401(tmp_path: Path) -> None:
    tokens = write(tmp_path / "t.json", entry("eve", "two", "viewer"))
    roles = frozenset({"admin"})
    answers = [authorize(tokens, header, roles) for header in (None, "Bearer x", "Bearer two")]  # type: ignore[arg-type]
    assert [answer.status for answer in answers if isinstance(answer, Refusal)] == [401, 401, 403]
    assert isinstance(authorize(tokens, "Bearer two", None), Caller)
