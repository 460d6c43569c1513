"""The kernel, as the core's ports see it: libbpf through ctypes, bpffs, /proc and cgroup v2."""
