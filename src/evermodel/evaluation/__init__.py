"""Evaluation of a challenger: metrics, slices, behaviour tests, calibration, baselines, and the gate with its verdict."""
