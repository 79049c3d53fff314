"""Search for learning rate, epochs and hidden layers: Ray Tune with Optuna's TPE, each trial by the plain loop.

A trial trains from scratch on the older rows and is judged by its mean loss on the newest share. Trials run one after
another, so that the same seed suggests the same trials. The result is a use case with the best settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna.samplers import TPESampler
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from evermodel import storage
from evermodel.errors import DataError, StateError
from evermodel.features import training_set
from evermodel.records import TrainingSet
from evermodel.training.torch import loop
from evermodel.training.torch.distributed import ray_storage, running_ray
from evermodel.training.torch.losses import loss_function
from evermodel.training.torch.start import from_scratch
from evermodel.use_case import UseCase

if TYPE_CHECKING:
    from evermodel.features.training_set import TrainingRows

HIDDEN = ("32", "64-32", "128-64", "128-64-32")
LEARNING_RATE = (3e-4, 1e-2)
EPOCHS = (2, 20)


@dataclass(frozen=True)
class Trial:
    """The settings of a trial, and its mean loss on the newest share of the rows."""

    learning_rate: float
    epochs: int
    hidden: tuple[int, ...]
    loss: float


@dataclass(frozen=True)
class Tuning:
    """All trials, best first, and the use case with the best one's settings."""

    trials: tuple[Trial, ...]
    use_case: UseCase


def tune_objective(
    use_case: UseCase, objective: str, rows: TrainingRows, *, num_trials: int, seed: int, out: str
) -> Tuning:
    """Try `num_trials` settings of one objective. The run keeps its rows below `out` while it lasts.

    DataError if `split.validation` is 0: there is nothing to judge a trial on. StateError if a trial fails.
    """
    if not use_case.split.validation:
        raise DataError("tuning judges on the newest share of the rows: split.validation must be above 0")
    place = storage.join(out, "tuning")
    job = {
        "use_case": use_case.model_dump_json(),
        "objective": objective,
        "rows": training_set.save(use_case, rows, storage.join(place, "rows")).to_json(),
        "seed": seed,
    }
    space = {
        "learning_rate": tune.loguniform(*LEARNING_RATE),
        "epochs": tune.randint(EPOCHS[0], EPOCHS[1] + 1),
        "hidden": tune.choice(HIDDEN),
    }
    search = OptunaSearch(sampler=TPESampler(seed=seed), metric="loss", mode="min")
    with running_ray(1):
        results = tune.Tuner(
            tune.with_parameters(_try, job=job),
            param_space=space,
            tune_config=tune.TuneConfig(search_alg=search, num_samples=num_trials, max_concurrent_trials=1),
            run_config=tune.RunConfig(name=objective, verbose=0, **ray_storage(place)),
        ).fit()
        if results.errors:
            raise StateError(f"{len(results.errors)} of {num_trials} trials failed: {results.errors[0]}")
        done = [results[index] for index in range(len(results))]
    trials = [_trial(one.config or {}, float((one.metrics or {})["loss"])) for one in done]
    storage.delete_tree(place)
    ordered = tuple(sorted(trials, key=lambda trial: trial.loss))
    return Tuning(ordered, with_trial(use_case, objective, ordered[0]))


def with_trial(use_case: UseCase, objective: str, trial: Trial) -> UseCase:
    """The use case with a trial's settings in `training` and the objective's model."""
    training = use_case.training.model_copy(update={"learning_rate": trial.learning_rate, "epochs": trial.epochs})
    objectives = tuple(
        one.model_copy(update={"model": one.model.model_copy(update={"hidden": trial.hidden})})
        if one.name == objective
        else one
        for one in use_case.objectives
    )
    return use_case.model_copy(update={"training": training, "objectives": objectives})


def judge(use_case: UseCase, objective: str, rows: TrainingRows, *, seed: int) -> float:
    """Train from scratch on the older rows; the mean loss on the newest share, after the last epoch."""
    patient = use_case.training.model_copy(update={"patience": use_case.training.epochs})  # holds the share out
    start = from_scratch(use_case.model_copy(update={"training": patient}), objective, rows, seed=seed)
    if start.validation is None:
        raise DataError(f"objective {objective!r}: no labelled row is left to judge a trial on")
    loop.run(start.learner, start.data, loss_function(start.task), epochs=start.epochs, batch_size=start.batch_size)
    return loop.mean_loss(start.learner.module, start.validation, loss_function(start.task))


def _try(config: dict[str, Any], *, job: dict[str, Any]) -> dict[str, float]:
    case = with_trial(UseCase.model_validate_json(job["use_case"]), job["objective"], _trial(config, 0.0))
    rows = training_set.load(TrainingSet.from_json(job["rows"]))
    return {"loss": judge(case, job["objective"], rows, seed=job["seed"])}


def _trial(config: dict[str, Any], loss: float) -> Trial:
    hidden = tuple(int(size) for size in str(config["hidden"]).split("-"))
    return Trial(float(config["learning_rate"]), int(config["epochs"]), hidden, loss)
