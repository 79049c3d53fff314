"""Features: one definition each, the same values in bulk, incrementally, offline and online."""
