"""The journey of a model, one function a stage, with a project's places filled in.

A component and a verb of the command line both call these: they hold no logic of their own, and neither do these beyond
where things lie. What a stage does is in its own package. Callers know this package's names only, not its modules.
"""

from evermodel.workflow.data import apply_features, build_training_set, ingest, materialize
from evermodel.workflow.monitoring import monitor, newest_window
from evermodel.workflow.project import Project
from evermodel.workflow.promotion import promote, register, rollback, sync_aliases
from evermodel.workflow.retraining import decide, retrain, status
from evermodel.workflow.runs import claim, mode_of, plan, read_report, read_run
from evermodel.workflow.serving import predict_batch, serve
from evermodel.workflow.training import evaluate, train

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
    "promote",
    "read_report",
    "read_run",
    "register",
    "retrain",
    "rollback",
    "serve",
    "status",
    "sync_aliases",
    "train",
]
