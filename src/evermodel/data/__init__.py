"""Stage 1: sources → validated events in an append-only log; labels, splits, samples, and a report on leakage."""
