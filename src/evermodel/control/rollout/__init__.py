"""Rolls champions out: keeps the RayService at the releases that the ledger names."""
