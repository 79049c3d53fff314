"""The control service for people: pages rendered by the service, with forms instead of scripts."""
