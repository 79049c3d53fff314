"""Training: torch models for tables, a plain loop, stateful turns, the same loop over Ray workers, and tuning."""
