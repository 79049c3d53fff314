"""Neural networks: the torch implementation of the trainer."""
