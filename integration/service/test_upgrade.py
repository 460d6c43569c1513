"""The release before is installed, holds a link, and is replaced by this one. The last test of all."""

import pytest

from integration.service import product
from integration.service.disk import CURRENT, PREVIOUS
from integration.service.host import SERVICE, Host

_FORGET = "rm -rf /var/lib/bpflinkd /etc/bpflinkd/links.d /sys/fs/bpf/bpflinkd /usr/lib/bpflinkd"
"""The older one need not understand what the newer one has kept."""
_UNPACK = "tar -x -C / --keep-directory-symlink -f"


@pytest.mark.skipif(product.previous() is None, reason="this checkout has no commit before its own")
def test_upgrade_in_place_keeps_the_link_and_misses_no_packet(host: Host) -> None:
    for name in host.links():
        host.ctl("detach", name, check=False)
    host.run("systemctl", "stop", SERVICE)
    host.run("sh", "-c", f"{_FORGET}; {_UNPACK} {PREVIOUS} && systemctl daemon-reload", seconds=300)
    host.run("systemctl", "start", SERVICE)
    wire = host.wire()
    before = host.attach("upgraded", f"xdp:{wire[0]}")
    counter = host.counter(before)
    with host.traffic(wire) as traffic:
        host.run("sh", "-c", f"{_UNPACK} {CURRENT}", seconds=300)
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "restart", SERVICE)
    assert traffic.sent > 0
    assert (counter(), traffic.passed) == (traffic.sent, 0)
    after = host.link("upgraded")
    for key in ("kernel_link_id", "state", "program", "generation"):
        assert after[key] == before[key], key
