"""The control service for people: pages."""
