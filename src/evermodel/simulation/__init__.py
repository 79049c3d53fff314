"""The simulator: a synthetic marketplace with planted drift, whose truth is known."""
