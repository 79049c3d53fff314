"""Pipelines: the journeys. Wiring only: a pipeline names components and passes their outputs on."""
