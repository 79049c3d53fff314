"""Releases in the model registry (MLflow), and promotion: which release is the champion."""
