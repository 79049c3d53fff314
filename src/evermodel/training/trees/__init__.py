"""Gradient-boosted trees: the LightGBM implementation of the trainer."""
