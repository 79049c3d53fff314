"""Live through a history as if it were happening, once for each retraining policy."""
