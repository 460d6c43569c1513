"""The disk is full: links go on, over a restart too, and what cannot be recorded is refused."""

from integration.service.host import COUNT, SERVICE, Host

_FILL = "fallocate -l $(df --output=avail -B1 /var | tail -1) /var/fill; dd if=/dev/zero of=/var/fill2 bs=4k"


def test_a_full_disk_costs_no_link_and_no_packet(host: Host) -> None:
    wire, other = host.wire(), host.wire()
    attach = ("attach", "more", f"xdp:{other[0]}", "--object", COUNT, "--program", "count_new")
    link = host.attach("kept", f"xdp:{wire[0]}")
    counter = host.counter(link)
    host.undo("rm", "-f", "/var/fill", "/var/fill2")
    assert "No space left" in host.run("sh", "-c", _FILL, check=False).stderr
    with host.traffic(wire) as traffic:
        host.run("systemctl", "restart", SERVICE)
        for _ in range(40):  # the log of the state may have room for some
            done = host.ctl(*attach, check=False)
            if done.code != 0:
                break
            host.ctl("detach", "more")
    assert "StorageFailed" in done.stderr, done
    assert (counter(), traffic.passed) == (traffic.sent, 0)
    assert host.link("kept")["kernel_link_id"] == link["kernel_link_id"]
    assert "more" not in host.links()
    host.run("rm", "/var/fill", "/var/fill2")
    host.ctl(*attach)
    host.ctl("detach", "more")
