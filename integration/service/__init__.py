"""bpflinkd as a service: a Debian 12 of its own, booted with systemd, driven from here.

`python -m pytest integration/service`, as root. Nothing is mounted and nothing is installed on this
machine: the guest has a disk, made anew for each run, and talks over a virtio-serial port.
"""
