"""Training on Ray workers: one gives the plain loop's bits, two the same up to the order of sums, a lost one is no loss.

One Ray for all tests here. A fit of small rows is nearly all start-up.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from evermodel.bundle import open_bundle
from evermodel.features.training_set import TrainingRows, row_digest
from evermodel.records import Window
from evermodel.training.train import TrainResult, train
from evermodel.use_case import UseCase
from tests.support import ROOT
from tests.support.use_cases import make_use_case

pytestmark = [pytest.mark.ray, pytest.mark.slow]

START = datetime(2026, 1, 1, tzinfo=UTC)


def make_case(kind: str) -> UseCase:
    return make_use_case(
        name="waves",
        fields={"user": "string", "time": "timestamp", "x": {}, "c": "string", "y": "int"},
        source={"name": "events", "event_time": {"field": "time"}},
        labels={"y": {}},
        features={"x": {}, "c": {"encode": "embed"}},
        objectives={"y": {"label": "y", "model": {"kind": kind, "hidden": [16]}}},
        training={"epochs": 4, "batch_size": 64, "learning_rate": 0.01, "scheduler": "cosine"},
        monitoring={"window": "7d"},
    )


def falling(inputs: Any, outputs: int, options: dict[str, Any]) -> Any:
    """The usual MLP, which kills its process once, in the middle of the third epoch, where a marker file can be made."""
    from torch import Tensor

    from evermodel.training.torch.modules import Tower
    from evermodel.use_case import Model

    class Falling(Tower):
        calls = 0

        def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
            Falling.calls += self.training
            marker = os.environ.get("EVERMODEL_TEST_FALL")
            if marker and Falling.calls == 20 and not os.path.exists(marker):
                Path(marker).touch()
                os._exit(1)
            return super().forward(dense, ids)

    return Falling(inputs, outputs, Model(hidden=(16,)))


@pytest.fixture(scope="module")
def case() -> UseCase:
    return make_case("mlp")


@pytest.fixture(scope="module")
def marker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fall") / "fallen"


@pytest.fixture(scope="module", autouse=True)
def running(marker: Path) -> Iterator[None]:
    """A local Ray whose workers can import this module.

    They inherit their environment: with a runtime_env, Ray couldn't use the processes that it starts ahead.
    """
    import ray

    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"PYTHONPATH": path, "EVERMODEL_TEST_FALL": str(marker), "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        patch.delenv("EVERMODEL_TEST_FALL")  # the plain loop of this process shall not fall
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def rows() -> TrainingRows:
    rng = np.random.default_rng(0)
    count = 500
    x = rng.normal(size=count)
    times = [START + timedelta(minutes=index) for index in range(count)]
    rows = pa.table(
        {
            "row_id": np.arange(count),
            "event_time": pa.array(times, pa.timestamp("us", tz="UTC")),
            "x": x,
            "c": rng.choice(["a", "b"], count),
            "label:y": (x + rng.normal(size=count) > 0).astype(float),
        }
    )
    end = times[-1] + timedelta(minutes=1)
    return TrainingRows(
        train=rows, gate=rows.slice(0, 1), rehearsal=None, windows=(Window(start=START, end=end),),
        gate_window=Window(start=end, end=end + timedelta(hours=1)), rehearsal_window=None,
        row_digest=row_digest(np.arange(count)), cursor=end, data_version="none",
    )  # fmt: skip


def fit(case: UseCase, rows: TrainingRows, out: Path, num_workers: int, **more: Any) -> TrainResult:
    call: dict[str, Any] = {"mode": "from_scratch", "parent": None, **more}
    return train(
        case, "y", rows, trigger=None, now=START + timedelta(days=9), out=str(out), num_workers=num_workers, **call
    )


def test_two_workers_give_the_same_up_to_the_order_of_sums(case: UseCase, rows: TrainingRows, tmp_path: Path) -> None:
    """A stateful round, so that the workers also open the parent."""
    parent = open_bundle(fit(case, rows, tmp_path / "parent", 0).ref)
    later = replace(rows, cursor=rows.cursor + timedelta(hours=1))
    call = {"mode": "stateful", "parent": parent}
    plain, two = fit(case, later, tmp_path / "plain", 0, **call), fit(case, later, tmp_path / "two", 2, **call)
    mine, other = open_bundle(plain.ref), open_bundle(two.ref)
    for name, value in mine.weights.items():
        np.testing.assert_allclose(other.weights[name], value, rtol=0, atol=1e-5)
    assert two.manifest.num_workers == 2 and two.manifest.rows_trained == plain.manifest.rows_trained
    assert two.losses == pytest.approx(plain.losses, abs=1e-5)


def test_one_worker_gives_the_plain_loops_bits_though_it_is_lost_on_the_way(
    rows: TrainingRows, tmp_path: Path, marker: Path
) -> None:
    """It goes on from its last epoch."""
    falls = make_case(f"{__name__}:falling")
    plain = fit(falls, rows, tmp_path / "plain", 0)
    assert not marker.exists()
    lost = fit(falls, rows, tmp_path / "lost", 1)
    assert marker.exists()
    assert lost.ref.digest == plain.ref.digest
    assert lost.seconds > 0 and lost.losses == plain.losses
    ranks = json.loads((tmp_path / "lost" / "workers.json").read_text())
    assert [(one["rank"], one["epoch"]) for one in ranks] == [(0, 0), (0, 2)], "it fell in the third epoch"
    assert all(one["node"] for one in ranks)
    assert {path.name for path in (tmp_path / "lost").iterdir()} == {lost.ref.uri.rsplit("/", 1)[1], "workers.json"}


def test_tuning_tries_what_its_seed_suggests(case: UseCase, rows: TrainingRows, tmp_path: Path) -> None:
    from evermodel.training.tuning import judge, tune_objective, with_trial

    found = tune_objective(case, "y", rows, num_trials=2, seed=1, out=str(tmp_path))
    assert len(found.trials) == 2 and found.trials[0].loss <= found.trials[1].loss
    best = found.trials[0]
    assert (found.use_case.training.learning_rate, found.use_case.training.epochs) == (best.learning_rate, best.epochs)
    assert found.use_case.objective("y").model.hidden == best.hidden
    assert judge(with_trial(case, "y", best), "y", rows, seed=1) == best.loss
    assert not any(tmp_path.iterdir())
