"""bpflinkd owns a Linux host's BPF attachments as pinned bpf_links."""

__version__ = "0.1.0"
