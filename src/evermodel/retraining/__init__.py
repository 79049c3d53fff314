"""Retraining: the policy, the plan of a run, training rounds and the scheduler."""
