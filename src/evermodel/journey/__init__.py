"""The journey of a model, one function a stage, with a project's places filled in.

A component and a verb of the command line both call these: they hold no logic of their own, and neither do these beyond
where things lie. What a stage does is in its own package. Callers know this package's names only, not its modules.
"""

from evermodel.journey.data import apply_features, build_training_set, ingest, materialize
from evermodel.journey.monitoring import monitor, newest_window
from evermodel.journey.project import Project
from evermodel.journey.promotion import project_aliases, promote, register, rollback
from evermodel.journey.retraining import decide, retrain, status
from evermodel.journey.runs import claim, mode_of, plan, read_report, read_run
from evermodel.journey.serving import predict_batch, serve
from evermodel.journey.training import evaluate, train

__all__ = [
    "Project",
    "apply_features",
    "build_training_set",
    "claim",
    "decide",
    "evaluate",
    "ingest",
    "materialize",
    "mode_of",
    "monitor",
    "newest_window",
    "plan",
    "predict_batch",
    "project_aliases",
    "promote",
    "read_report",
    "read_run",
    "register",
    "retrain",
    "rollback",
    "serve",
    "status",
    "train",
]
