"""The simulator: a synthetic marketplace with injected drift and known true probabilities."""
