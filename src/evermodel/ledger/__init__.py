"""The ledger: the durable, ordered record of decisions, runs and promotions."""

from evermodel.ledger.ledger import Ledger
from evermodel.ledger.records import Failure, Lease, Run, compute_chain

__all__ = ["Failure", "Lease", "Ledger", "Run", "compute_chain"]
