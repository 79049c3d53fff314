"""The control service: the ledger over HTTP for people, programs and alerts, and the rollout of champions to serving."""
