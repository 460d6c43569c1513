"""Benchmarks: `python -m bench [NAME...]` prints one table.

They measure against a floor taken in the same run, so that the machine cancels out. A missed target
is a verdict in the table, not an error; a wrong count of packets is.
"""
