"""One file a claim, each against a peer in the same run. `python -m benchmarks` runs all of them."""
