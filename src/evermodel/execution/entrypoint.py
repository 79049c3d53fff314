"""`python -m evermodel.execution.entrypoint train|predict-batch FOLDER`: the entry point of a RayJob, run on the head of its cluster.

What it works on is in the folder, on storage that every node reaches; what it leaves is there too, and a marker is
written last. It knows neither the ledger nor the registry: whoever asked for it reads the folder and records.
"""

from __future__ import annotations

import json
import sys
from typing import Literal

from evermodel import bundle, storage
from evermodel import use_case as use_cases
from evermodel.errors import EvermodelError, InputError, nearest
from evermodel.profile import Profile, load_profile
from evermodel.records import Artifact, Plan, Release, TrainingSet, canonical_json, sha256
from evermodel.use_case import UseCase

Verb = Literal["train", "predict-batch"]
READS: dict[str, tuple[str, ...]] = {"train": ("plan.json", "training_set.json"), "predict-batch": ("batch.json",)}


class Batch(Artifact):
    """`batch.json`: which rows to score, with what, into where."""

    use_case_uri: str
    use_case_digest: str
    release: Release
    rows_uri: str
    rows_digest: str
    out_uri: str


def inputs(verb: Verb, folder: str) -> str:
    """The digest of all that the job reads: another one is another job, whatever its name.

    Not of the data version: events that have come since leave the rows of the same `now` as they were, and rows are in
    it by their own digests. So a step that was killed while events came in finds its job again.
    """
    texts = [storage.read_text(storage.join(folder, name)) for name in READS[verb]]
    trees = [{key: value for key, value in json.loads(text).items() if key != "data_version"} for text in texts]
    return sha256(canonical_json([verb, *trees]).encode())


def is_done(verb: Verb, folder: str, digest: str) -> bool:
    """Whether a job with these inputs has finished in this folder."""
    place = _marker(verb, folder)
    return storage.exists(place) and storage.read_text(place) == digest


def _marker(verb: Verb, folder: str) -> str:
    return storage.join(folder, f"{verb}.done")


def train(plan: Plan, rows: TrainingSet, *, out: str, num_workers: int) -> Release:
    """Every objective of the plan's use case, trained into `out` with the Ray that is there (none: in this process)."""
    from evermodel.features import training_set
    from evermodel.training.release import train_release

    trained = train_release(
        _use_case(plan.use_case_uri, plan.use_case_digest),
        training_set.load(rows),
        parent=bundle.open_release(plan.parent) if plan.parent else None,
        mode=plan.mode,
        trigger=plan.trigger,
        now=plan.now,
        out=out,
        num_workers=num_workers,
        reason=plan.reason,
    )
    return trained.release


def predict_batch(batch: Batch, *, num_actors: int, num_gpus: float) -> None:
    """Score the batch's rows into its folder, on so many GPUs an actor."""
    from evermodel.serving.batch import predict_batch as score

    score(
        _use_case(batch.use_case_uri, batch.use_case_digest),
        batch.release,
        batch.rows_uri,
        batch.out_uri,
        rows_digest=batch.rows_digest,
        batch_size=4096,
        concurrency=num_actors,
        num_gpus=num_gpus,
    )


def run(verb: Verb, folder: str, profile: Profile) -> None:
    """Do what the folder says, and leave the marker."""
    digest, workers = inputs(verb, folder), max(profile.num_workers, 1)
    if verb == "train":
        plan, rows = (storage.read_text(storage.join(folder, name)) for name in READS[verb])
        release = train(Plan.from_json(plan), TrainingSet.from_json(rows), out=folder, num_workers=workers)
        storage.write_text(storage.join(folder, "workers.json"), _workers(folder, release))
    else:
        batch = Batch.from_json(storage.read_text(storage.join(folder, "batch.json")))
        predict_batch(batch, num_actors=workers, num_gpus=profile.gpus_per_worker)
    storage.write_text(_marker(verb, folder), digest)


def _workers(folder: str, release: Release) -> str:
    """Which node each rank of each objective was on, and from which epoch it went on there."""
    names = [part.objective for part in release.bundles]
    texts = {name: storage.read_text(storage.join(folder, name, "workers.json")) for name in names}
    return canonical_json([{"objective": name, **one} for name in names for one in json.loads(texts[name])])


def _use_case(uri: str, digest: str) -> UseCase:
    case = use_cases.load(uri)
    if case.digest() != digest:
        raise InputError(f"{uri}: the use case is not the one that the run was started with (digest {digest[:12]})")
    return case


def main(arguments: list[str]) -> int:
    """0 when done, 1 with one line that says why not: the job's status carries it to whoever waits."""
    try:
        if len(arguments) != 2 or arguments[0] not in READS:
            given = arguments[0] if arguments else ""
            raise InputError(f"usage: python -m evermodel.execution.entrypoint VERB FOLDER; {nearest(given, READS)}")
        run(arguments[0], arguments[1], load_profile())  # type: ignore[arg-type]
    except EvermodelError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
