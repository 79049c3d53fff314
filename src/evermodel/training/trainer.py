"""The same loop on Ray Train workers: one worker gives the plain loop's bits, N give them up to the order of sums.

Every worker begins the turn from the same references (Parquet rows, the parent's bundle), holds all rows, takes its
slice of each global batch, and gradients are summed by gloo. After each epoch rank 0 leaves a checkpoint with a digest
for each file; a worker that is lost is started again, and all go on from the last whole checkpoint. A run is named by
what it trains, so that asking again after a crash of the driver goes on as well. (Patience starts counting anew then.)
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import ray.train
import safetensors.numpy
import torch
import torch.distributed
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from evermodel import storage
from evermodel.artifacts import BundleRef, Mode, TrainingSet, canonical_json, sha256
from evermodel.bundle import Bundle, open_bundle
from evermodel.errors import IntegrityError, StateError
from evermodel.features import training_set
from evermodel.training import loop, state
from evermodel.training.loop import Learner, Outcome
from evermodel.training.start import Start, begin
from evermodel.use_case import UseCase

if TYPE_CHECKING:
    from evermodel.features.training_set import TurnRows

MAX_FAILURES = 3
RECORD, WEIGHTS, STATE = "learner.json", "weights.safetensors", "state.safetensors"


def fit(
    use_case: UseCase,
    objective: str,
    turn: TurnRows,
    start: Start,
    *,
    mode: Mode,
    parent: Bundle | None,
    seed: int,
    num_workers: int,
    out: str,
) -> Outcome:
    """Train `start.learner` in place on `num_workers` workers. `out`: below it the run keeps rows and checkpoints.

    Uses the Ray that is running, the one that RAY_ADDRESS names, or a local one for the time of this call.
    """
    place = storage.join(out, "run")
    rows = training_set.save(use_case, turn, storage.join(place, "rows"))
    job = {
        "use_case": use_case.model_dump_json(),
        "objective": objective,
        "rows": rows.to_json(),
        "mode": mode,
        "parent": parent.ref.to_json() if parent is not None else None,
        "seed": seed,
    }
    digest = sha256(canonical_json(job | {"workers": num_workers}).encode())[:16]
    with running_ray(num_workers):
        trainer = TorchTrainer(
            _work,
            train_loop_config=job,
            scaling_config=ScalingConfig(num_workers=num_workers, resources_per_worker={"CPU": 1}),
            torch_config=TorchConfig(backend="gloo"),
            run_config=RunConfig(
                name=f"{objective}-{digest}",
                storage_path=absolute(place),
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
            ),
        )
        result = trainer.fit()
        if result.error is not None:
            raise StateError(f"training on {num_workers} workers failed: {result.error}")
        if result.checkpoint is None:
            raise StateError(f"training on {num_workers} workers left no checkpoint")
        with result.checkpoint.as_directory() as folder:
            learner, outcome = _read(Path(folder), start)
    start.learner.__dict__.update(learner.__dict__)
    storage.delete_tree(place)
    return outcome


def _work(job: dict[str, Any]) -> None:
    """One worker: begin from references, go on from the last checkpoint, and report each epoch."""
    parent = job["parent"]
    start = begin(
        UseCase.model_validate_json(job["use_case"]),
        job["objective"],
        training_set.load(TrainingSet.from_json(job["rows"])),
        mode=job["mode"],
        parent=open_bundle(BundleRef.from_json(parent)) if parent else None,
        seed=job["seed"],
    )
    learner, before = start.learner, Outcome(0, 0, 0.0)
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            learner, before = _read(Path(folder), start)
    losses: list[float] = list(before.losses)

    def leave(current: Learner, loss: float) -> None:
        losses.append(loss)
        done = Outcome(len(losses), len(losses) * len(start.data), 0.0, tuple(losses))
        _report(current, done)

    outcome = loop.run(
        learner,
        start.data,
        start.task.losses(),
        epochs=start.epochs - before.epochs,
        batch_size=start.batch_size,
        validation=start.validation,
        patience=start.patience,
        exchange=Gloo(),
        on_epoch=leave,
    )
    whole = Outcome(
        before.epochs + outcome.epochs,
        before.rows_trained + outcome.rows_trained,
        outcome.seconds,
        before.losses + outcome.losses,
        outcome.validation,
    )
    _report(learner, whole)


class Gloo:
    """The exchange of Ray's process group. Sums are all-reduced, so every rank has the same bits."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world: int = context.get_world_size()

    def total(self, values: torch.Tensor) -> None:
        if self.world > 1:
            torch.distributed.all_reduce(values)


def _report(learner: Learner, outcome: Outcome) -> None:
    """Rank 0's checkpoint with the metrics (without one Ray forgets them); the others only take part."""
    metrics = {"epochs": outcome.epochs, "loss": outcome.losses[-1] if outcome.losses else None}
    if ray.train.get_context().get_world_rank() != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), learner, outcome)
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


def _write(folder: Path, learner: Learner, outcome: Outcome) -> None:
    moments, scalars = state.save(learner)
    files = {
        WEIGHTS: safetensors.numpy.save(state.weights_of(learner.module)),
        STATE: safetensors.numpy.save({name: np.asarray(value, order="C") for name, value in moments.items()}),
    }
    for name, data in files.items():
        storage.write_bytes(folder / name, data)
    digests = {name: sha256(data) for name, data in files.items()}
    record = {"scalars": scalars, "outcome": asdict(outcome), "sha256": digests}
    storage.write_text(folder / RECORD, canonical_json(record))


def _read(folder: Path, start: Start) -> tuple[Learner, Outcome]:
    """The learner of a checkpoint, in a module like the start's. IntegrityError where a file isn't what was written."""
    record = json.loads(storage.read_bytes(folder / RECORD))
    arrays = {}
    for name, digest in record["sha256"].items():
        data = storage.read_bytes(folder / name)
        if sha256(data) != digest:
            raise IntegrityError(f"checkpoint file {name} isn't what was written")
        arrays[name] = safetensors.numpy.load(data)
    learner = state.restore(start.learner.module, arrays[WEIGHTS], arrays[STATE], record["scalars"])
    tree = record["outcome"]
    return learner, Outcome(**{**tree, "losses": tuple(tree["losses"]), "validation": tuple(tree["validation"])})


@contextmanager
def running_ray(num_workers: int) -> Iterator[None]:
    """A Ray to run on. An address is always given: with another Ray on the machine, none would be a guess."""
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


def absolute(uri: str) -> str:
    """Ray wants whole paths."""
    path = storage.local_path(uri)
    return str(path.resolve()) if path is not None else uri
