"""Other kernels: Debian's own, unpacked into a cache and booted under emulation by virtme-ng."""
