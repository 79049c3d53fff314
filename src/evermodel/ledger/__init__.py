"""The ledger: what was decided, run and promoted, durable and in order."""

from evermodel.ledger.ledger import Ledger
from evermodel.ledger.records import Failure, Lease, Run, link

__all__ = ["Failure", "Lease", "Ledger", "Run", "link"]
