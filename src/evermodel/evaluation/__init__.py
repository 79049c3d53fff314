"""Judging a challenger: metrics, slices, behaviour tests, calibration, baselines, and the gate that puts them into a word."""
