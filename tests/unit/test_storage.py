"""Writes are atomic; a name is created once."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from evermodel import storage
from evermodel.errors import ConflictError, IntegrityError

CRASH = "from evermodel import storage; storage.write_bytes({path!r}, b'new')"


def test_a_name_is_created_once(tmp_path: Path) -> None:
    storage.create_bytes(tmp_path / "a", b"first")
    with pytest.raises(ConflictError):
        storage.create_bytes(tmp_path / "a", b"second")
    assert storage.read_bytes(tmp_path / "a") == b"first"
    assert storage.list_files(tmp_path) == [str(tmp_path / "a")], "the loser leaves nothing behind"


@pytest.mark.parametrize(("hit", "content"), [(1, b"old"), (2, b"new")])
def test_a_killed_write_leaves_the_old_or_the_new(tmp_path: Path, hit: int, content: bytes) -> None:
    path = tmp_path / "file"
    storage.write_bytes(path, b"old")
    killed = subprocess.run(
        [sys.executable, "-c", CRASH.format(path=str(path))], env={"EVERMODEL_FAILPOINT": str(hit)}, check=False
    )
    assert killed.returncode == -9
    assert path.read_bytes() == content
    assert storage.list_files(tmp_path) == [str(path)]


def test_a_changed_table_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    uri = str(tmp_path / "t.parquet")
    digest = storage.write_table(uri, pa.table({"a": [1, 2]}))
    assert storage.read_table(uri, digest=digest)["a"].to_pylist() == [1, 2]
    Path(uri).write_bytes(b"x" + Path(uri).read_bytes())
    with pytest.raises(IntegrityError, match="its manifest says"):
        storage.read_table(uri, digest=digest)


def test_an_oversized_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 100)
    with pytest.raises(IntegrityError, match="100 bytes; at most 10"):
        storage.read_bytes(tmp_path / "big", limit=10)


def test_other_file_systems_are_reached_by_uri(tmp_path: Path) -> None:
    uri = f"mock://{tmp_path.name}/a"
    assert storage.local_path(uri) is None
    assert storage.join("s3://b/k?endpoint_override=h", "x", "y") == "s3://b/k/x/y?endpoint_override=h"


@pytest.mark.parametrize("query", ["", "?endpoint_override=http://host:9000&scheme=http"])
def test_a_uri_is_taken_apart_before_its_query(query: str) -> None:
    uri = storage.Uri.parse(f"s3://bucket/shop/part.1.parquet{query}")
    assert (uri.name, uri.stem, str(uri.parent)) == ("part.1.parquet", "part.1", f"s3://bucket/shop{query}")
    assert uri.relative_to(f"s3://bucket/{query}") == "shop/part.1.parquet"
    assert str(uri) == storage.join(f"s3://bucket{query}", "shop", "part.1.parquet")


def test_a_local_path_is_relative_to_its_folder_however_it_is_written(tmp_path: Path) -> None:
    storage.write_text(tmp_path / "a" / "b", "")
    for folder in (tmp_path, f"{tmp_path}/", f"file://{tmp_path}"):
        assert [storage.Uri.parse(uri).relative_to(folder) for uri in storage.list_files(folder)] == ["a/b"]
