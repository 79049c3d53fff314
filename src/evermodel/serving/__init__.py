"""Answers by id: schemas → predictor (features, arms, scores, fallback) → request log. No Ray here but in `batch`."""
