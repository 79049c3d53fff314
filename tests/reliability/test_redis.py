"""The online store in a real Redis: it restarts, hangs, changes its password; and it is Feast's online store too.

What a store of packed views promises is tested on both kinds in `unit/features/test_packed_store.py`.
"""

import socket
import threading
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml
from sqlalchemy import text

from evermodel import storage, workflow
from evermodel.data.events import EventLog
from evermodel.errors import FeatureStoreError
from evermodel.features.online_store import OnlineStore, materialize, open_store
from evermodel.features.packed_store import KeyValueStore
from evermodel.ledger.engine import make_engine, reading
from evermodel.workflow import Project
from tests.support import ROOT
from tests.support.online_shop import CASE, shop_log
from tests.support.servers import Server, database_url, postgresql_server, redis_server, s3_server

NOW = datetime(2026, 1, 6, tzinfo=UTC)
pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with redis_server() as found:
        yield found


@pytest.fixture
def uri(server: Server) -> str:
    return f"redis://127.0.0.1:{server.port}/0"


@pytest.fixture
def store(server: Server, uri: str) -> Iterator[KeyValueStore]:
    found = open_store(uri, password_file=str(server.password_file), timeout_s=2.0)
    found.drop("v")
    found.define("v", numbers=["a"], texts=["t"])
    yield found
    found.close()


def row(store: KeyValueStore, key: str, at: int, value: float) -> None:
    store.write("v", [key], np.array([at]), np.array([[value]]), [["t"]])


def test_the_next_call_after_a_restart_works(server: Server, store: KeyValueStore) -> None:
    row(store, "x", 1, 1.0)
    server.stop()
    with pytest.raises(FeatureStoreError, match=rf"redis://127\.0\.0\.1:{server.port}/0: "):
        store.read("v", ["x"])
    server.start()
    assert store.read("v", ["x"]).column("a") == [1.0]
    server.stop()
    server.start()
    row(store, "x", 2, 2.0)
    assert store.read("v", ["x"]).column("a") == [2.0]


def test_a_server_that_does_not_answer_is_a_timeout() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        store = open_store(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", timeout_s=0.2)
        with pytest.raises(FeatureStoreError, match="Timeout"):
            store.read("v", ["x"])
        store.close()


def test_a_password_comes_from_its_file_and_is_in_no_message(server: Server, uri: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("canary-of-a-password\n")
    store = open_store(uri, password_file=str(file))
    with pytest.raises(FeatureStoreError) as refused:
        store.read("v", ["x"])
    inline = open_store(uri.replace("//", "//:canary-of-a-password@"))
    with pytest.raises(FeatureStoreError) as refused_too:
        inline.read("v", ["x"])
    assert "canary" not in str(refused.value) + str(refused_too.value)
    file.write_text(server.password)
    store.define("w", numbers=["a"], texts=["t"])
    assert store.read("w", ["x"]).column("a") == [None]


def test_a_read_is_one_round_trip_whatever_it_asks_for(store: KeyValueStore, uri: str, server: Server) -> None:
    keys = [f"k{number}" for number in range(3000)]
    store.write("v", keys, np.arange(3000), np.zeros((3000, 1)), [["t"]] * 3000)
    sent: list[int] = []
    connection = store._client.connection_pool.get_connection()  # type: ignore[attr-defined]
    send = connection.send_packed_command
    connection.send_packed_command = lambda *words, **more: (sent.append(1), send(*words, **more))
    store._client.connection_pool.release(connection)  # type: ignore[attr-defined]
    assert store.read("v", keys).event_times.tolist() == list(range(3000))
    assert len(sent) == 1


def test_of_two_writers_at_once_the_newer_row_stays(server: Server, uri: str, store: KeyValueStore) -> None:
    """Compare and set are one step in the server: without it, a late writer of an old row may win."""
    barrier = threading.Barrier(2)

    def write(times: range) -> None:
        own = open_store(uri, password_file=str(server.password_file))
        barrier.wait()
        for at in times:
            row(own, "x", at, float(at))
        own.close()

    threads = [threading.Thread(target=write, args=(range(start, 400, 2),)) for start in (0, 1)]
    seen: list[int] = []
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen.append(int(store.read("v", ["x"]).event_times[0]))
    assert seen == sorted(seen), "a row went back in time"
    assert store.read("v", ["x"]).column("a") == [399.0]


def test_a_view_defined_anew_takes_no_rows_of_the_old_kind(
    store: KeyValueStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that read the view before somebody changed it must not pack rows that a reader would take apart wrongly."""
    names = store._names  # type: ignore[attr-defined]

    def changed(view: str, definition: bytes | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        known: tuple[tuple[str, ...], tuple[str, ...]] = names(view, definition)
        store.define("v", numbers=["b", "c"], texts=[])
        return known

    monkeypatch.setattr(store, "_names", changed)
    with pytest.raises(FeatureStoreError, match="redefined"):
        row(store, "x", 1, 1.0)
    monkeypatch.undo()
    assert store.read("v", ["x"]).event_times.tolist() == [-1]


def test_a_use_case_is_materialised_and_read_as_from_a_file(server: Server, uri: str, tmp_path: Path) -> None:
    log: EventLog = shop_log(tmp_path / "events")
    password_file = str(server.password_file)
    tables = []
    for place, secret in ((str(tmp_path / "online.db"), None), (uri, password_file)):
        opened = open_store(place, password_file=secret)
        assert materialize(CASE, log, opened, offline_root=str(tmp_path / "offline"), now=NOW) > 0
        reader = OnlineStore(CASE, place, password_file=secret)
        keys = ["u1", "nobody", "u5"]
        tables.append(reader.read("user", keys, timeout_s=2.0, now=NOW + timedelta(hours=1)))
        opened.close()
    assert tables[0].equals(tables[1]) and tables[0]["visits_3d"][0].as_py() is not None


@pytest.mark.slow
def test_feast_writes_and_reads_the_same_rows(server: Server, uri: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Feast's own, of its dependencies
        from evermodel.features.online_store import snapshot, views
        from evermodel.features.repository import apply, open_feast

        log = shop_log(tmp_path / "events")
        (tmp_path / "repo").mkdir()
        (tmp_path / "repo" / "feature_store.yaml").write_text(
            f"""
project: evermodel
provider: local
registry: {{registry_type: sql, path: "sqlite:///{tmp_path}/registry.db"}}
online_store:
  type: evermodel.features.repository.PackedRedisOnlineStore
  uri: {uri}
  password_file: {server.password_file}
offline_store: {{type: file}}
entity_key_serialization_version: 3
"""
        )
        apply(tmp_path / "repo", [CASE], str(tmp_path / "offline"))
        view = views(CASE)[0]
        store = open_feast(tmp_path / "repo")
        frame = snapshot(view, log, now=NOW).to_pandas()
        store.write_to_online_store(view.name, frame)
        columns = [f"{view.name}:{name}" for name in view.features]
        keys = ["u1", "nobody", "u5"]
        online = store.get_online_features(columns, [{"user": key} for key in keys]).to_dict()
        ours = OnlineStore(CASE, uri, password_file=str(server.password_file)).read("user", keys, timeout_s=2.0)
        for name in view.features:
            assert online[name] == ours[name].to_pylist(), name
        assert ours["visits_3d"][0].as_py() is not None
        store.teardown()
    with pytest.raises(FeatureStoreError, match="has no view"):
        open_store(uri, password_file=str(server.password_file)).read(view.name, ["u1"])


@pytest.mark.slow
def test_the_cluster_s_feature_store_is_applied_from_the_profile(
    server: Server, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registry in PostgreSQL, online store in Redis, files on S3; the project's folder is read, never written."""
    root = tmp_path / "project"
    (root / "use_cases").mkdir(parents=True)
    with postgresql_server() as database, s3_server(monkeypatch) as state:
        places = {
            "state": state,
            "ledger": (url := database_url(database)).partition("?")[0],
            "ledger_password_file": str(database.password_file),
            "feature_repo": str(ROOT / "feature_repo"),
            "feature_store": "feature_store.cluster.yaml",
            "online_store": uri,
            "online_store_password_file": str(server.password_file),
        }
        (root / "evermodel.yaml").write_text(yaml.safe_dump(places))
        case = CASE.model_dump(mode="json", exclude_none=True)
        (root / "use_cases" / "shop.yaml").write_text(yaml.safe_dump(case, sort_keys=False))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Feast's own, of its dependencies
            names = workflow.apply_features(Project.open(root))
        assert {"shop", "shop__user", "shop__user_id", "shop__user_files", "shop__user_push"} == set(names)
        with reading(make_engine(url)) as connection:
            found = connection.scalars(text("select feature_view_name from feature_views")).all()
        make_engine(url).dispose()
        assert found == ["shop__user"]
        assert [file.partition("?")[0].rpartition("/")[2] for file in storage.list_files(state)] == ["schema.parquet"]
        store = open_store(uri, password_file=str(server.password_file))
        assert store.read("shop__user", ["u1"]).event_times.tolist() == [-1], "its view is there"
