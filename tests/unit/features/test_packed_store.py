"""The packed online store returns the rows written, never goes back in time, and has clear errors.

Every test runs on SQLite, and on Redis if its server is installed.
"""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evermodel.errors import FeatureStoreError
from evermodel.features.online_store import open_store
from evermodel.features.packed_store import KeyValueStore, PackedStore
from tests.support.servers import Server, redis_server

FLOATS = st.floats(allow_nan=False) | st.just(float("nan"))


Opener = Callable[[], KeyValueStore]


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with redis_server() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.server)])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens the test's own store, at each call."""
    uri, password_file = str(tmp_path / "online.db"), None
    if request.param == "redis":
        server = request.getfixturevalue("redis")
        uri, password_file = f"redis://127.0.0.1:{server.port}/0", str(server.password_file)

    def open_() -> KeyValueStore:
        return open_store(uri, password_file=password_file)

    yield open_
    open_().drop("v")


def _store(opener: Opener) -> KeyValueStore:
    store = opener()
    store.define("v", numbers=["a", "b"], texts=["t"])
    return store


def test_rows_are_in_the_order_of_the_keys_and_an_unknown_key_is_null(opener: Opener) -> None:
    store = _store(opener)
    store.write("v", ["x", "y"], np.array([5, 6]), np.array([[1.0, np.nan], [2.0, 3.0]]), [["p"], [None]])
    found = store.read("v", ["y", "nobody", "x", "y"])
    assert found.column("a") == [2.0, None, 1.0, 2.0]
    assert found.column("b") == [3.0, None, None, 3.0]
    assert found.column("t") == [None, None, "p", None]
    assert found.event_times.tolist() == [6, -1, 5, 6]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 9), FLOATS), max_size=30))
def test_the_newest_wins_whatever_the_order_of_writing(opener: Opener, writes: list[tuple[str, int, float]]) -> None:
    store = opener()
    store.drop("v")
    store.define("v", numbers=["a"], texts=[])
    newest: dict[str, tuple[int, float]] = {}
    for key, time, value in writes:
        store.write("v", [key], np.array([time]), np.array([[value]]), [[]])
        if key not in newest or time >= newest[key][0]:
            newest[key] = (time, value)
    found = store.read("v", list("xyz"))
    for row, key in enumerate("xyz"):
        time, value = newest.get(key, (-1, float("nan")))
        assert found.event_times[row] == time
        np.testing.assert_array_equal(found.numbers[row], [value])


def test_a_view_whose_features_changed_is_emptied(opener: Opener) -> None:
    store = _store(opener)
    store.write("v", ["x"], np.array([5]), np.array([[1.0, 2.0]]), [["p"]])
    store.define("v", numbers=["a", "b"], texts=["t"])
    assert store.read("v", ["x"]).event_times.tolist() == [5], "the same definition changes nothing"
    store.define("v", numbers=["b", "a"], texts=["t"])
    assert store.read("v", ["x"]).event_times.tolist() == [-1]


def test_an_unknown_view_or_a_wrong_shape_is_a_clear_error(opener: Opener) -> None:
    store = _store(opener)
    with pytest.raises(FeatureStoreError, match="has no view 'w'"):
        store.read("w", ["x"])
    with pytest.raises(FeatureStoreError, match="2 numbers and 1 texts"):
        store.write("v", ["x"], np.array([1]), np.array([[1.0]]), [["p"]])


def test_a_file_that_is_no_store_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "broken.db").write_bytes(b"this is no database, and it is long enough to be looked at" * 100)
    with pytest.raises(FeatureStoreError, match=r"broken\.db"):
        PackedStore(tmp_path / "broken.db")


def test_two_writers_wait_for_each_other(opener: Opener) -> None:
    _store(opener)

    def write(name: str) -> None:
        store = opener()
        for number in range(50):
            store.write("v", [f"{name}{number}"], np.array([1]), np.array([[1.0, 2.0]]), [["p"]])
        store.close()

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = opener().read("v", [f"{name}{number}" for name in "ab" for number in range(50)])
    assert (found.event_times == 1).all()


def test_more_keys_than_a_statement_takes(opener: Opener) -> None:
    store = _store(opener)
    keys = [f"k{number}" for number in range(2500)]
    store.write("v", keys, np.arange(2500), np.zeros((2500, 2)), [["p"]] * 2500)
    assert store.read("v", keys).event_times.tolist() == list(range(2500))


def test_no_keys_give_no_rows(opener: Opener) -> None:
    found = _store(opener).read("v", [])
    assert found.numbers.shape == (0, 2) and found.texts == [] and found.event_times.tolist() == []


def test_a_view_that_was_dropped_is_gone_with_its_rows(opener: Opener) -> None:
    store = _store(opener)
    store.write("v", ["x"], np.array([5]), np.array([[1.0, 2.0]]), [["p"]])
    store.drop("v")
    with pytest.raises(FeatureStoreError, match="has no view 'v'"):
        store.read("v", ["x"])
    store.define("v", numbers=["a", "b"], texts=["t"])
    assert store.read("v", ["x"]).event_times.tolist() == [-1]
