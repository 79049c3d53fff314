"""Pipelines: wiring only. A pipeline names components and passes their outputs on."""
