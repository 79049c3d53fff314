"""Which Ray a batch prediction runs on: never one that just happens to run on the machine."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from evermodel import storage
from evermodel.serving.batch import predict_batch
from tests.unit.serving.serving_cases import release, shop


class RayInitCalledError(Exception):
    pass


@pytest.mark.parametrize(
    ("named", "address", "dashboard"),
    [(None, "local", False), ("", "local", False), ("10.0.0.7:6379", "10.0.0.7:6379", None)],
)
def test_it_uses_the_named_ray_or_starts_a_local_one(
    named: str | None, address: str, dashboard: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    calls: list[dict[str, Any]] = []

    def init(**options: Any) -> None:
        calls.append(options)
        raise RayInitCalledError

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if named is not None:
        monkeypatch.setenv("RAY_ADDRESS", named)
    storage.write_table(tmp_path / "rows.parquet", pa.table({"row_id": [1]}))
    with pytest.raises(RayInitCalledError):
        predict_batch(shop(), release(shop()), str(tmp_path / "rows.parquet"), str(tmp_path / "out"), batch_size=1)
    (options,) = calls
    assert (options.get("address"), options["include_dashboard"]) == (address, dashboard)
