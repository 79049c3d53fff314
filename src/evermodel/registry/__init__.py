"""Which release is live, and how it came to be so: the ledger's promotions, mirrored in MLflow."""
