"""The promises of bpflinkd, shown and proven outside the unit tests."""
