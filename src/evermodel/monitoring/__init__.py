"""Windows of answers against the champion's reference: quality, drift, performance, and a diagnosis before any action."""
