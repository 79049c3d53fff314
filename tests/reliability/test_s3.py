"""Every place that the library keeps things in, on a real S3 server: names created once, whole writes, the same reads."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import fs

from evermodel import bundle, storage, workflow
from evermodel.data.events import EventLog
from evermodel.errors import ConflictError, InputError, IntegrityError
from evermodel.records import TrainingManifest, Window
from evermodel.serving.request_log import RequestLog
from evermodel.workflow import Project
from tests.reliability.small_loop import run_loop, write_project
from tests.support.servers import s3_server

START = datetime(2026, 1, 1, tzinfo=UTC)

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as uri:
        yield uri


@pytest.fixture
def place(server: str, request: pytest.FixtureRequest) -> str:
    """A folder of the test's own in the bucket."""
    return storage.join(server, request.node.name.partition("[")[0])


def test_a_file_lives_there_as_it_does_locally(place: str) -> None:
    uri = storage.join(place, "folder", "a file=1.txt")
    assert not storage.exists(uri)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(uri)
    storage.write_text(uri, "first")
    storage.write_text(uri, "second")
    assert storage.exists(uri) and storage.exists(storage.join(place, "folder"))
    assert (storage.read_text(uri), storage.size(uri)) == ("second", 6)
    with pytest.raises(IntegrityError, match="6 bytes; at most 5"):
        storage.read_bytes(uri, limit=5)
    storage.delete_file(uri)
    storage.delete_file(uri)
    assert not storage.exists(uri)


def test_a_listing_gives_uris_that_open(place: str) -> None:
    names = ["b/2.json", "a/1.json", "a/deep/3.json", "a/1.parquet"]
    for name in names:
        storage.write_text(storage.join(place, name), name)
    found = storage.list_files(place, suffix=".json")
    assert found == [storage.join(place, name) for name in sorted(names) if name.endswith(".json")]
    assert [storage.read_text(uri) for uri in found] == ["a/1.json", "a/deep/3.json", "b/2.json"]
    assert storage.list_files(storage.join(place, "a/")) == [
        storage.join(place, name) for name in ("a/1.json", "a/1.parquet", "a/deep/3.json")
    ]
    assert storage.list_files(storage.join(place, "nowhere")) == []
    storage.delete_tree(storage.join(place, "a"))
    storage.delete_tree(storage.join(place, "a"))
    assert storage.list_files(place) == [storage.join(place, "b/2.json")]


def test_a_table_is_counted_by_its_footers_and_checked_before_it_is_parsed(place: str) -> None:
    uri = storage.join(place, "rows", "part.parquet")
    digest = storage.write_table(uri, pa.table({"a": [1, 2, 3]}))
    assert (storage.count_rows(uri), storage.count_rows(place)) == (3, 3)
    assert storage.read_table(uri, digest=digest, columns=["a"])["a"].to_pylist() == [1, 2, 3]
    storage.write_bytes(uri, b"x" + storage.read_bytes(uri))
    with pytest.raises(IntegrityError, match="its manifest says"):
        storage.read_table(uri, digest=digest)


def test_of_many_who_create_a_name_one_wins(place: str) -> None:
    for round_ in range(20):
        uri, barrier = storage.join(place, str(round_)), threading.Barrier(8)

        def create(i: int, uri: str = uri, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            try:
                storage.create_bytes(uri, b"%d" % i)
            except ConflictError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            won = [i for i, ok in enumerate(pool.map(create, range(8))) if ok]
        assert len(won) == 1, f"round {round_}: {won} created the same name"
        assert storage.read_bytes(uri) == b"%d" % won[0]
    with pytest.raises(ConflictError, match="already there"):
        storage.create_bytes(storage.join(place, "0"), b"late")


def test_a_put_whose_answer_was_lost_is_known_as_ones_own(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client sends a put again when the connection broke before the answer: the first may have been kept."""
    uri = storage.join(place, "name")
    client = storage._client(uri.partition("?")[2])
    put = client.put_object

    def twice(**what: Any) -> Any:
        put(**what)
        return put(**what)

    monkeypatch.setattr(client, "put_object", twice)
    storage.create_bytes(uri, b"mine")
    assert storage.read_bytes(uri) == b"mine"
    with pytest.raises(ConflictError):
        storage.create_bytes(uri, b"mine")


def test_a_bucket_has_one_client_and_engines_get_it(place: str) -> None:
    system, path = storage.filesystem(storage.join(place, "a", "b"))
    assert path == place.partition("?")[0].removeprefix("s3://") + "/a/b"
    assert storage.filesystem(place)[0] is system
    with system.open_output_stream(path) as stream:  # what Ray does with a storage_filesystem
        stream.write(b"x")
    assert storage.read_bytes(storage.join(place, "a", "b")) == b"x"
    function, arguments = system.__reduce__()[:2]  # what Ray sends to its workers
    elsewhere: fs.FileSystem = function(*arguments)
    assert elsewhere == system and elsewhere is not system
    assert elsewhere.get_file_info(path).size == 1


def test_a_store_that_is_gone_is_an_error_and_not_a_wait(place: str) -> None:
    query = "endpoint_override=http://127.0.0.1:9&scheme=http&region=us-east-1"
    with pytest.raises(OSError, match=r"127\.0\.0\.1:9"):
        storage.create_bytes(f"s3://evermodel/x?{query}", b"x")
    with pytest.raises(OSError, match=r"evermodel"):
        storage.read_bytes(f"s3://evermodel/x?{query}")
    with pytest.raises(InputError, match="read only"):
        storage.create_bytes("gs://bucket/x", b"x")


def batch(name: str, hours: range) -> pa.Table:
    times = pa.array([START + timedelta(hours=hour) for hour in hours], pa.timestamp("us", "UTC"))
    return pa.table({"who": [f"{name}{hour}" for hour in hours], "event_time": times, "created_time": times})


def test_two_writers_append_to_an_event_log_and_none_is_lost(place: str) -> None:
    barrier = threading.Barrier(2)

    def write(name: str) -> list[bool]:
        log = EventLog(place)
        barrier.wait()
        return [
            log.append("visits", batch(name, range(i, i + 30)), batch_id=f"{name}{i}", sort_by=["who"])[1]
            for i in range(5)
        ]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(write, "ab")) == [[True] * 5] * 2
    log = EventLog(place)
    assert log.append("visits", batch("a", range(30)), batch_id="a0", sort_by=["who"])[1] is False
    assert log.sources() == ["visits"]
    assert [commit.number for commit in log.commits("visits")] == list(range(10))
    rows, version = log.read("visits"), log.data_version()
    assert rows.num_rows == 300 and sorted(rows["ingest_seq"].to_pylist()) == list(range(300))
    window = Window(start=START + timedelta(hours=5), end=START + timedelta(hours=7))
    assert log.read("visits", window=window, columns=["who"]).num_rows == 20
    log.compact("visits", sort_by=["who"])
    fresh = EventLog(place)
    assert fresh.read("visits").equals(rows) and fresh.data_version() == version


def test_a_bundle_is_packed_once_and_opened(place: str, manifest: TrainingManifest) -> None:
    weights = {"w": np.ones((2, 3), np.float32)}
    model = {"objective": "up", "scorer": "torch"}
    packed = [
        bundle.pack(place, objective="up", model=model, weights=weights, state={}, moments={}, manifest=manifest)
        for _ in range(2)
    ]
    assert packed[0] == packed[1]
    contents = bundle.verify(packed[0])
    assert set(contents) == set(bundle.FILES)
    storage.write_bytes(storage.join(packed[0].uri, "weights.safetensors"), contents["weights.safetensors"] + b"x")
    with pytest.raises(IntegrityError, match="its manifest says"):
        bundle.verify(packed[0])


@pytest.fixture
def manifest() -> TrainingManifest:
    window = Window(start=START, end=START + timedelta(days=1))
    return TrainingManifest(
        use_case="pumps", objective="up", mode="from_scratch", windows=(window,), rows=1, epochs=1, rows_trained=1,
        row_digest="", data_version="", config_digest="", features=(), code_version="", seed=0, seconds=1.0,
        final_loss=0.5, cursor=window.end,
    )  # fmt: skip


def test_answers_are_logged_and_read_by_window(place: str) -> None:
    log = RequestLog(place)
    times = pa.array([START + timedelta(hours=20 * i) for i in range(4)], pa.timestamp("us", "UTC"))
    log.append(pa.table({"event_time": times, "prediction_id": list("abcd")}))
    assert log.flush() == 4
    day = Window(start=START + timedelta(days=1), end=START + timedelta(days=2))
    assert log.read(day)["prediction_id"].to_pylist() == ["c"]
    assert log.read().num_rows == 4


def test_the_small_loop_keeps_its_state_there(
    server: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events, training sets, bundles, request logs and reports: the same verdicts, whichever store they lie in."""
    results = []
    for state in (".evermodel", storage.join(server, "loop")):
        root = tmp_path_factory.mktemp("project")
        write_project(root)
        monkeypatch.setenv("EVERMODEL_STATE", state)
        monkeypatch.setenv("EVERMODEL_LEDGER", f"sqlite:///{root}/ledger.db")
        project = Project.open(root)
        run_loop(project)
        ledger = project.ledger()
        rows = ledger.promotions("pumps")
        assert [row.release.home.startswith("s3://") for row in rows] == [state.startswith("s3://")] * 2
        digests = [part.digest for row in rows for part in row.release.bundles]
        results.append((digests, [report.performance for report in ledger.monitoring_reports("pumps")]))
    assert results[0] == results[1]


@pytest.mark.parametrize("way", ["written", "made", "emptied"])
def test_a_tree_goes_with_all_its_folders(place: str, way: str) -> None:
    """The server keeps folders as objects, and lets none be deleted before what is in it."""
    tree = storage.join(place, way)
    names = ["a/1.json", "a/b/2.json", "a/b/c/3.json", "d/4.json"]
    for name in names:
        storage.write_text(storage.join(tree, name), name)
    system, key = storage.filesystem(tree)
    if way == "made":
        system.create_dir(f"{key}/a/empty/too", recursive=True)
    if way == "emptied":
        storage.delete_file(storage.join(tree, names[2]))
    beside = storage.join(place, f"{way}-beside.json")
    storage.write_text(beside, "stays")
    storage.delete_tree(tree)
    storage.delete_tree(tree)
    assert not storage.exists(tree) and storage.exists(beside)


def test_a_run_that_is_not_there_is_answered_by_the_nearest_one(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(tmp_path)
    monkeypatch.setenv("EVERMODEL_STATE", place)
    project = Project.open(tmp_path)
    for key in ("0123abcd", "fedc9876"):
        storage.write_text(project.profile.place("pumps", "runs", key, "release.json"), "{}")
    with pytest.raises(InputError, match=r"no trained run '0123abce'; did you mean '0123abcd'\?"):
        workflow.read_run(project, "pumps", "0123abce")
