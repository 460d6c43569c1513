"""The promises of every kind of link, as tests that run on any kernel: here, or inside a guest."""
