"""`python -m evermodel.execution.entrypoint train|predict-batch FOLDER`: the entry point of a RayJob, on its cluster's head.

The folder lies on storage that every node reaches. It holds the inputs, and gets the results and, last, a marker. The
job uses neither the ledger nor the registry: the step that started it reads the folder and records the result.
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
from evermodel.run_folder import RunFolder
from evermodel.use_case import UseCase

Verb = Literal["train", "predict-batch"]
VERBS: tuple[Verb, ...] = ("train", "predict-batch")


class BatchRequest(Artifact):
    """Which rows to score, with which release, and where the scores go."""

    use_case_uri: str
    use_case_digest: str
    release: Release
    rows_uri: str
    rows_digest: str
    out_uri: str


def input_digest(verb: Verb, folder: str) -> str:
    """The digest of all that the job reads; a job with another digest is another job, even under the same name.

    It leaves out the data version, so that a step that is killed while events arrive finds its job again: new events
    don't change the rows as of the same `now`, and the rows' own digests are part of the inputs.
    """
    trees = [json.loads(storage.read_text(uri)) for uri in _inputs(verb, folder)]
    stable = [{key: value for key, value in tree.items() if key != "data_version"} for tree in trees]
    return sha256(canonical_json([verb, *stable]).encode())


def _inputs(verb: Verb, folder: str) -> tuple[str, ...]:
    run = RunFolder(folder)
    return (run.plan, run.training_set) if verb == "train" else (run.batch,)


def is_done(verb: Verb, folder: str, digest: str) -> bool:
    """Whether a job with these inputs has finished in this folder."""
    marker = _marker(verb, folder)
    return storage.exists(marker) and storage.read_text(marker) == digest


def mark_done(verb: Verb, folder: str, digest: str) -> None:
    storage.write_text(_marker(verb, folder), digest)


def _marker(verb: Verb, folder: str) -> str:
    return storage.join(folder, f"{verb}.done")


def train(plan: Plan, rows: TrainingSet, *, out: str, num_workers: int) -> Release:
    """Train every objective of the plan's use case into `out`, on the running Ray, or in this process if there is none."""
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


def predict_batch(batch: BatchRequest, *, num_actors: int, num_gpus: float) -> None:
    """Score the batch's rows with `num_gpus` GPUs for each actor."""
    from evermodel.serving import batch as batches

    batches.predict_batch(
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
    """Train or score by the folder's inputs, then write the marker."""
    digest, workers, files = input_digest(verb, folder), max(profile.num_workers, 1), RunFolder(folder)
    if verb == "train":
        release = train(files.read_plan(), files.read_training_set(), out=folder, num_workers=workers)
        storage.write_text(files.workers, _worker_nodes(files, release))
    else:
        batch = BatchRequest.from_json(storage.read_text(files.batch))
        predict_batch(batch, num_actors=workers, num_gpus=profile.gpus_per_worker)
    mark_done(verb, folder, digest)


def _worker_nodes(files: RunFolder, release: Release) -> str:
    """The node of each rank of each objective, and the epoch from which it was there."""
    names = [part.objective for part in release.bundles]
    texts = {name: storage.read_text(RunFolder(files.file(name)).workers) for name in names}
    return canonical_json([{"objective": name, **worker} for name in names for worker in json.loads(texts[name])])


def _use_case(uri: str, digest: str) -> UseCase:
    case = use_cases.load(uri)
    case.check_digest(digest, uri)
    return case


def main(arguments: list[str]) -> int:
    """0 if the job is done, else 1 and one line with the cause, which the job's status passes on."""
    try:
        if len(arguments) != 2 or arguments[0] not in VERBS:
            given = arguments[0] if arguments else ""
            raise InputError(f"usage: python -m evermodel.execution.entrypoint VERB FOLDER; {nearest(given, VERBS)}")
        run(arguments[0], arguments[1], load_profile())
    except EvermodelError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
