"""The only module that opens paths: local ones, and URIs that pyarrow.fs supports (`s3://bucket/key?endpoint_override=…`).

A write is atomic: locally temporary file + fsync + rename, on an object store one put. `create_*` raises ConflictError if
the name exists; the event log and the bundles commit by it, as a compare-and-set. On S3 this is a conditional put
(`If-None-Match: *`). pyarrow has none, so puts use boto3; all other calls use pyarrow.fs. Both find credentials by AWS's
own chain (`AWS_SHARED_CREDENTIALS_FILE`), never in a URI.
"""

import hashlib
import os
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from evermodel.errors import ConflictError, InputError, IntegrityError
from evermodel.failpoint import failpoint

CREATE_ATTEMPTS = 5  # of a conditional put


@dataclass(frozen=True)
class Uri:
    """A path or URI, split before its query, which may hold slashes: `?endpoint_override=http://host:9000`."""

    path: str
    query: str

    @classmethod
    def parse(cls, uri: str | Path) -> Self:
        path, _, query = str(uri).partition("?")
        return cls(path, query)

    def __str__(self) -> str:
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def name(self) -> str:
        """The last part of the path: `part.parquet`."""
        return self.path.rstrip("/").rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its suffix: `part`."""
        return self.name.rpartition(".")[0] or self.name

    @property
    def parent(self) -> Self:
        return replace(self, path=self.path.rstrip("/").rpartition("/")[0])

    def relative_to(self, folder: str | Path) -> str:
        """The path below `folder`: `events/part.parquet`."""
        root, path = local_path(folder), local_path(self.path)
        if root is not None and path is not None:
            return path.relative_to(root).as_posix()
        return self.path.removeprefix(self.parse(folder).path.rstrip("/")).lstrip("/")


def join(uri: str | Path, *parts: str) -> str:
    """`uri/part/part`; the query of a URI stays at its end."""
    head = Uri.parse(uri)
    return str(replace(head, path="/".join([head.path.rstrip("/"), *(part.strip("/") for part in parts)])))


def local_path(uri: str | Path) -> Path | None:
    """The path of a local URI (a plain path or file://); None for any other."""
    text = str(uri)
    if text.startswith("file://"):
        return Path(unquote(urlsplit(text).path))
    return None if "://" in text else Path(text)


def filesystem(uri: str | Path) -> tuple[fs.FileSystem, str]:
    """The file system of a URI and the path in it, for an engine that takes both separately, as Ray does."""
    if (path := local_path(uri)) is not None:
        return fs.LocalFileSystem(), str(path.absolute())
    return _remote(str(uri))


def _remote(uri: str) -> tuple[fs.FileSystem, str]:
    parts = urlsplit(uri)
    if parts.scheme != "s3":
        system, key = fs.FileSystem.from_uri(uri)
        return system, str(key)
    query = f"?{parts.query}" if parts.query else ""
    return _bucket(f"s3://{parts.netloc}{query}"), parts.netloc + unquote(parts.path).rstrip("/")


@lru_cache(maxsize=32)
def _bucket(uri: str) -> fs.FileSystem:
    """One client, with its connections, for all URIs of a bucket."""
    return fs.FileSystem.from_uri(uri)[0]


def exists(uri: str | Path) -> bool:
    if (path := local_path(uri)) is not None:
        return path.exists()
    system, key = _remote(str(uri))
    return bool(system.get_file_info(key).type != fs.FileType.NotFound)


def size(uri: str | Path) -> int:
    """The size of a file in bytes, without reading it."""
    if (path := local_path(uri)) is not None:
        return path.stat().st_size
    system, key = _remote(str(uri))
    return int(system.get_file_info(key).size)


def read_bytes(uri: str | Path, *, limit: int | None = None) -> bytes:
    """The whole file; IntegrityError, before reading, if it is larger than `limit` bytes."""
    if limit is not None and (length := size(uri)) > limit:
        raise IntegrityError(f"{uri} has {length} bytes; at most {limit} are read")
    if (path := local_path(uri)) is not None:
        return path.read_bytes()
    system, key = _remote(str(uri))
    with system.open_input_stream(key) as stream:
        return bytes(stream.read())


def read_text(uri: str | Path) -> str:
    return read_bytes(uri).decode()


def write_bytes(uri: str | Path, data: bytes) -> None:
    """Write the whole file atomically: after a crash the old or the new content is there."""
    _put(uri, data, exclusive=False)


def write_text(uri: str | Path, text: str) -> None:
    write_bytes(uri, text.encode())


def create_bytes(uri: str | Path, data: bytes) -> None:
    """Write the whole file atomically; ConflictError if the name exists."""
    _put(uri, data, exclusive=True)


def _put(uri: str | Path, data: bytes, *, exclusive: bool) -> None:
    path = local_path(uri)
    if path is None:
        failpoint(f"storage.{'create' if exclusive else 'write'}.before_put")
        _put_object(str(uri), data, exclusive=exclusive)
        failpoint(f"storage.{'create' if exclusive else 'write'}.after_put")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        failpoint(f"storage.{'create' if exclusive else 'write'}.before_rename")
        if exclusive:
            _link(temporary, path)
        else:
            os.replace(temporary, path)
        _sync_directory(path.parent)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    failpoint(f"storage.{'create' if exclusive else 'write'}.after_rename")


def _link(temporary: str, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise ConflictError(f"{path} already exists") from None


def _put_object(uri: str, data: bytes, *, exclusive: bool) -> None:
    """One atomic put. A broken stream could leave a part of the file under the name."""
    parts = urlsplit(uri)
    if parts.scheme != "s3":
        raise InputError(
            f"{uri}: {parts.scheme}:// is read-only here, because its puts can't be exclusive; use a path or s3://"
        )
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

    name = {"Bucket": parts.netloc, "Key": unquote(parts.path).strip("/")}
    token = uuid4().hex  # identifies our own put if its response was lost
    condition = {"IfNoneMatch": "*"} if exclusive else {}
    client = _client(parts.query)
    for attempt in range(CREATE_ATTEMPTS):
        try:
            client.put_object(**name, Body=data, Metadata={"put": token}, **condition)
            return
        except ClientError as error:
            if not exclusive or _status(error) not in (409, 412):
                raise OSError(f"{uri}: {error}") from error
        except BotoCoreError as error:
            raise OSError(f"{uri}: {error}") from error
        try:
            if client.head_object(**name)["Metadata"].get("put") == token:
                return
            break
        except (ClientError, BotoCoreError):  # the object of the earlier put is not visible yet
            time.sleep(0.05 * 2**attempt)
    raise ConflictError(f"{uri} already exists")


def _status(error: Any) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


@lru_cache(maxsize=32)
def _client(query: str) -> Any:
    """The S3 client for the endpoint in a URI's query, which is read as pyarrow reads it."""
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]

    wanted = {key: values[0] for key, values in parse_qs(query).items()}
    endpoint = wanted.get("endpoint_override")
    if endpoint and "://" not in endpoint:
        endpoint = f"{wanted.get('scheme', 'https')}://{endpoint}"
    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard", "max_attempts": 4},
        s3={"addressing_style": "path"} if endpoint else {},
        request_checksum_calculation="when_required",  # our files have digests of their own
        response_checksum_validation="when_required",
        max_pool_connections=16,
    )
    return boto3.session.Session().client("s3", endpoint_url=endpoint, region_name=wanted.get("region"), config=config)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def list_files(uri: str | Path, *, suffix: str = "") -> list[str]:
    """The URIs of all files below `uri` whose name ends in `suffix`, sorted; none if `uri` does not exist."""
    if (root := local_path(uri)) is not None:
        return sorted(
            str(path) for path in root.rglob(f"*{suffix}") if path.is_file() and not path.name.startswith(".")
        )
    system, key = _remote(str(uri))
    found = system.get_file_info(fs.FileSelector(key, recursive=True, allow_not_found=True))
    names = (info.path[len(key) :] for info in found if info.type == fs.FileType.File)
    return sorted(join(uri, name) for name in names if name.endswith(suffix))


def make_folder(uri: str | Path) -> None:
    """Create a local folder, for an engine that opens its own files in it; does nothing for other URIs."""
    if (path := local_path(uri)) is not None:
        path.mkdir(parents=True, exist_ok=True)


def delete_file(uri: str | Path) -> None:
    """Remove one file, if it exists."""
    if (path := local_path(uri)) is not None:
        path.unlink(missing_ok=True)
        return
    system, key = _remote(str(uri))
    if system.get_file_info(key).type == fs.FileType.File:
        system.delete_file(key)


def delete_tree(uri: str | Path) -> None:
    """Remove a folder and all below it, if it exists.

    On an object store the files go first, then the folders from the deepest up: a gateway that stores on a disk keeps
    folders as objects, and refuses to delete one that is not empty.
    """
    if (path := local_path(uri)) is not None:
        shutil.rmtree(path, ignore_errors=True)
        return
    system, key = _remote(str(uri))
    below = system.get_file_info(fs.FileSelector(key, recursive=True, allow_not_found=True))
    for info in below:
        if info.type == fs.FileType.File:
            system.delete_file(info.path)
    folders = sorted((info.path for info in below if info.type == fs.FileType.Directory), reverse=True)
    for folder in (*folders, key):  # in reverse order a folder comes after the folders in it
        with suppress(FileNotFoundError):
            system.delete_dir(folder)


def write_table(uri: str | Path, table: pa.Table) -> str:
    """Write Parquet (zstd) atomically; returns the sha256 of its bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    write_bytes(uri, data)
    return hashlib.sha256(data).hexdigest()


def read_table(uri: str | Path, *, columns: list[str] | None = None, digest: str | None = None) -> pa.Table:
    """Read Parquet. IntegrityError, before parsing, if the bytes don't have the given digest."""
    data = read_bytes(uri)
    if digest is not None and (actual := hashlib.sha256(data).hexdigest()) != digest:
        raise IntegrityError(f"{uri}: sha256 is {actual}, its manifest says {digest}")
    return pq.read_table(pa.BufferReader(data), columns=columns)


def open_log(path: Path) -> IO[bytes]:
    """A local file for the output of a subprocess: the only write that is not atomic."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("wb")


def count_rows(uri: str | Path) -> int:
    """The number of rows of a Parquet file, or of all files below a folder, from their footers alone."""
    is_file = Uri.parse(uri).name.endswith(".parquet")
    return sum(_footer(file).num_rows for file in ([uri] if is_file else list_files(uri, suffix=".parquet")))


def _footer(uri: str | Path) -> pq.FileMetaData:
    if (path := local_path(uri)) is not None:
        return pq.read_metadata(path)
    system, key = _remote(str(uri))
    return pq.read_metadata(key, filesystem=system)
