"""The same loop on Ray Train workers: one worker gives the plain loop's bits, N workers the same up to the order of sums.

Every worker starts from the same references (Parquet rows, the parent's bundle), holds all rows, and takes its slice of
each global batch; gloo sums the gradients. After each epoch rank 0 writes a checkpoint with a digest for each file. A lost
worker is started again, and all workers resume from the last complete checkpoint in storage (Ray's controller learns of a
checkpoint only at its next poll, several short epochs later). A run is named by what it trains, so a driver that crashed
and is started again resumes the run as well. (Patience then starts counting anew.)

Rows, checkpoints and progress are below `out`, on storage that all workers reach; Ray uses the same filesystem. Afterwards
`workers.json` states the node of each rank and the epoch from which it resumed.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import ray.train
import safetensors.numpy
import torch
import torch.distributed
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig, collective
from ray.train.torch import TorchConfig, TorchTrainer

from evermodel import storage
from evermodel.bundle import Bundle, open_bundle
from evermodel.errors import IntegrityError, StateError
from evermodel.failpoint import failpoint
from evermodel.features import training_set
from evermodel.records import BundleRef, TrainingSet, canonical_json, sha256
from evermodel.training.torch import loop, state
from evermodel.training.torch.loop import FitResult, Learner
from evermodel.training.torch.losses import loss_function
from evermodel.training.torch.start import Start, begin
from evermodel.use_case import UseCase

if TYPE_CHECKING:
    from evermodel.features.training_set import TrainingRows

MAX_FAILURES = 3
RECORD, WEIGHTS, STATE = "learner.json", "weights.safetensors", "state.safetensors"
WORKERS = "workers.json"


def fit(
    use_case: UseCase,
    objective: str,
    rows: TrainingRows,
    start: Start,
    *,
    parent: Bundle | None,
    seed: int,
    num_workers: int,
    out: str,
) -> FitResult:
    """Train `start.learner` in place on `num_workers` workers. The run keeps rows and checkpoints below `out`.

    Uses the Ray that is running, else the one that RAY_ADDRESS names, else a local one during this call. Workers are
    spread over the nodes, so that a lost node takes few of them.
    """
    place = storage.join(out, "run")
    saved = training_set.save(use_case, rows, storage.join(place, "rows"))
    job = {
        "use_case": use_case.model_dump_json(),
        "objective": objective,
        "rows": saved.to_json(),
        "parent": parent.ref.to_json() if parent is not None else None,
        "seed": seed,
        "place": place,
    }
    identity = job | {"rows": saved.model_copy(update={"data_version": ""}).to_json(), "workers": num_workers}
    name = f"{objective}-{sha256(canonical_json(identity).encode())[:16]}"
    with running_ray(num_workers):
        trainer = TorchTrainer(
            _work,
            train_loop_config=job | {"checkpoints": storage.join(place, name)},
            scaling_config=ScalingConfig(
                num_workers=num_workers, resources_per_worker={"CPU": 1}, placement_strategy="SPREAD"
            ),
            torch_config=TorchConfig(backend="gloo"),
            run_config=RunConfig(
                name=name,
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
                **ray_storage(place),
            ),
        )
        result = trainer.fit()
        if result.error is not None:
            raise StateError(f"training on {num_workers} workers failed: {result.error}")
        if result.checkpoint is None:
            raise StateError(f"training on {num_workers} workers left no checkpoint")
        with result.checkpoint.as_directory() as folder:
            learner, outcome = _read(folder, start)
    start.learner.__dict__.update(learner.__dict__)
    storage.write_text(storage.join(out, WORKERS), _workers(place))
    storage.delete_tree(place)
    return outcome


def _workers(place: str) -> str:
    """The node of each rank, in the order in which they started; a restarted rank is listed twice."""
    found = [json.loads(storage.read_text(uri)) for uri in storage.list_files(storage.join(place, "workers"))]
    return canonical_json(sorted(found, key=lambda one: (one["epoch"], one["rank"], one["node"])))


def _work(job: dict[str, Any]) -> None:
    """One worker: start from references, resume from the last checkpoint, and report each epoch."""
    parent = job["parent"]
    start = begin(
        UseCase.model_validate_json(job["use_case"]),
        job["objective"],
        training_set.load(TrainingSet.from_json(job["rows"])),
        parent=open_bundle(BundleRef.from_json(parent)) if parent else None,
        seed=job["seed"],
    )
    learner, before = start.learner, FitResult(0, 0, 0.0)
    folder = None
    if (
        ray.train.get_context().get_world_rank() == 0
    ):  # rank 0 decides for all: a node that is cut off may still be writing
        folder = _last_complete(job["checkpoints"], start)
    if (folder := collective.broadcast_from_rank_zero(folder)) is not None:
        learner, before = _read(folder, start)
    losses: list[float] = list(before.losses)
    _record_worker(job["place"], before.epochs)

    def report_epoch(current: Learner, loss: float) -> None:
        losses.append(loss)
        done = FitResult(len(losses), len(losses) * len(start.data), 0.0, tuple(losses))
        failpoint("train.epoch")
        _report(current, done)
        _write_progress(job["place"], f"{job['objective']}: epoch {done.epochs} of {start.epochs}, loss {loss:.6f}")

    outcome = loop.run(
        learner,
        start.data,
        loss_function(start.task),
        epochs=start.epochs - before.epochs,
        batch_size=start.batch_size,
        validation=start.validation,
        patience=start.patience,
        all_reduce=GlooAllReduce(),
        on_epoch=report_epoch,
    )
    whole = FitResult(
        before.epochs + outcome.epochs,
        before.rows_trained + outcome.rows_trained,
        outcome.seconds,
        before.losses + outcome.losses,
        outcome.validation,
    )
    _report(learner, whole)


def _record_worker(place: str, epoch: int) -> None:
    """Record this rank's node, and the epoch from which it resumes."""
    rank, node = ray.train.get_context().get_world_rank(), os.environ.get("NODE_NAME") or socket.gethostname()
    record = canonical_json({"rank": rank, "node": node, "epoch": epoch})
    storage.write_text(storage.join(place, "workers", f"{epoch}-{rank}-{node}.json"), record)


def _write_progress(place: str, line: str) -> None:
    """Write the progress for a process that waits elsewhere."""
    if ray.train.get_context().get_world_rank() == 0:
        storage.write_text(storage.join(place, "progress.txt"), line + "\n")


class GlooAllReduce:
    """All-reduce in Ray's process group: every rank gets the same bits."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world: int = context.get_world_size()

    def all_reduce(self, values: torch.Tensor) -> None:
        if self.world > 1:
            torch.distributed.all_reduce(values)


def _report(learner: Learner, outcome: FitResult) -> None:
    """Report the metrics; rank 0 adds a checkpoint, without which Ray forgets them."""
    metrics = {"epochs": outcome.epochs, "loss": outcome.losses[-1] if outcome.losses else None}
    if ray.train.get_context().get_world_rank() != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), learner, outcome)
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


def _write(folder: Path, learner: Learner, outcome: FitResult) -> None:
    moments, scalars = state.save(learner)
    files = {
        WEIGHTS: safetensors.numpy.save(state.weights_of(learner.module)),
        STATE: safetensors.numpy.save({name: np.asarray(value, order="C") for name, value in moments.items()}),
    }
    for name, data in files.items():
        storage.write_bytes(folder / name, data)
        failpoint("train.checkpoint")
    digests = {name: sha256(data) for name, data in files.items()}
    record = {"scalars": scalars, "outcome": asdict(outcome), "sha256": digests}
    storage.write_text(folder / RECORD, canonical_json(record))


def _last_complete(checkpoints: str, start: Start) -> str | None:
    """The folder of the stored checkpoint with the most epochs whose files match their digests; None if there is none."""
    found: list[tuple[int, str]] = []
    for place in storage.list_files(checkpoints, suffix=RECORD):
        with suppress(ValueError):  # its writer died before it was complete
            epochs = json.loads(storage.read_bytes(place))["outcome"]["epochs"]
            found.append((epochs, "".join(place.rsplit(f"/{RECORD}", 1))))  # a URI's query stays at its end
    for _, folder in sorted(found, reverse=True):
        with suppress(IntegrityError, FileNotFoundError):
            _read(folder, start)
            return folder
    return None


def _read(folder: str, start: Start) -> tuple[Learner, FitResult]:
    """The learner of a checkpoint, in a module like the start's. IntegrityError if a file differs from its digest."""
    record = json.loads(storage.read_bytes(storage.join(folder, RECORD)))
    arrays = {}
    for name, digest in record["sha256"].items():
        data = storage.read_bytes(storage.join(folder, name))
        if sha256(data) != digest:
            raise IntegrityError(f"checkpoint file {name} differs from its digest")
        arrays[name] = safetensors.numpy.load(data)
    learner = state.restore(start.learner.module, arrays[WEIGHTS], arrays[STATE], record["scalars"])
    tree = record["outcome"]
    return learner, FitResult(**{**tree, "losses": tuple(tree["losses"]), "validation": tuple(tree["validation"])})


@contextmanager
def running_ray(num_workers: int) -> Iterator[None]:
    """A Ray to run on. The address is always stated: without one, Ray guesses if several run on the machine."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    local = address == "local"
    ray.init(
        address=address,
        num_cpus=max(num_workers, os.cpu_count() or 1) if local else None,
        include_dashboard=False if local else None,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},  # Ray doesn't set it: N workers would each take all cores
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()


def ray_storage(uri: str) -> dict[str, Any]:
    """A URI as Ray's RunConfig takes it: an absolute path if it is local, else a filesystem and a path in it."""
    if (path := storage.local_path(uri)) is not None:
        return {"storage_path": str(path.resolve())}
    filesystem, key = storage.filesystem(uri)
    return {"storage_path": key, "storage_filesystem": filesystem}
