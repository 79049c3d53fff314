"""Online prediction: schemas → predictor (features, arms, scores, fallback) → request log. Only `deployments` and `batch` import Ray."""
