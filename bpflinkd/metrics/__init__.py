"""Metrics for Prometheus: what is counted as it happens, what is read at a scrape, and the socket for it."""
