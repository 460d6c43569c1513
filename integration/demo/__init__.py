"""`make demo`: the main job, done for real on this machine's kernel and told while it happens."""
