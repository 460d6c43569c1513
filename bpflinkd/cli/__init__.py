"""`bpflinkctl`, the command line client: one module a command group, one renderer."""
