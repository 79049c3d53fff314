"""The control service: the ledger over HTTP, for people, alerts and metrics, and the projection of its champions."""
