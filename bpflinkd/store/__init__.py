"""Durable records: what we promised, in SQLite."""
