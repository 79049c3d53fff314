"""The steps of a model's life, one function for each, with a project's places filled in.

Components, commands, the control service and the backtest all call these. A step finds what it works on in the project and
calls its stage: the rules are in the stages. Callers use the names of this package, not its modules.
"""

from evermodel.retraining.planning import parse_mode
from evermodel.workflow.data import apply_features, build_training_set, ingest, materialize
from evermodel.workflow.monitoring import monitor, newest_window
from evermodel.workflow.project import Project
from evermodel.workflow.promotion import promote, register, rollback, sync_aliases
from evermodel.workflow.retraining import decide, retrain, status
from evermodel.workflow.runs import claim, plan, plan_decision, read_report, read_run
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
    "monitor",
    "newest_window",
    "parse_mode",
    "plan",
    "plan_decision",
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
