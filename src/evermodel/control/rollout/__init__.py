"""Brings the Ray Serve deployment to the release that the ledger names."""
