"""Monitoring compares windows of served rows with the champion's reference: quality, drift, performance, diagnosis, alerts."""
