"""Where changes by others are noticed. Each module turns one source into tidings for the core."""
