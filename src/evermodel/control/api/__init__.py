"""The control service for programs: JSON routes, the alert webhook, metrics."""
