"""Events from a stream (Kafka) into the event log."""
