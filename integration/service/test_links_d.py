"""Declared links while the service runs. What happens to them at boot is in test_boot and test_reboot."""

from integration.service.host import SERVICE, Host, declaration


def test_reload_applies_a_changed_file(host: Host) -> None:
    wire = host.wire()
    host.declare("changed.toml", declaration("changed", f"xdp:{wire[0]}", "count_old"))
    host.run("systemctl", "reload", SERVICE)
    before = host.until_active("changed")
    assert before["program"]["name"] == "count_old"
    host.declare("changed.toml", declaration("changed", f"xdp:{wire[0]}", "count_new"))
    with host.traffic(wire):
        host.run("systemctl", "reload", SERVICE)
    after = host.link("changed")
    assert after["program"]["name"] == "count_new"
    assert (after["generation"], after["kernel_link_id"]) == (2, before["kernel_link_id"])


def test_reload_ends_a_link_that_is_no_longer_declared(host: Host) -> None:
    wire = host.wire()
    host.declare("gone.toml", declaration("gone", f"xdp:{wire[0]}"))
    host.run("systemctl", "reload", SERVICE)
    host.until_active("gone")
    host.run("rm", "/etc/bpflinkd/links.d/gone.toml")
    host.run("systemctl", "reload", SERVICE)
    assert "gone" not in host.links()


def test_bad_file_fails_the_reload_by_its_place_and_keeps_no_other_from_being_applied(host: Host) -> None:
    wire = host.wire()
    pid, mark = host.main_pid, host.journal_mark()
    host.declare("a-bad.toml", '[[link]]\nname = "bad"\ntarget = xdp:test0\n')
    host.declare("b-good.toml", declaration("good", f"xdp:{wire[0]}"))
    done = host.run("systemctl", "reload", SERVICE, check=False)
    assert done.code != 0
    said = "\n".join(str(entry["MESSAGE"]) for entry in host.journal(mark, _SYSTEMD_UNIT=SERVICE))
    assert "a-bad.toml:3:10" in said
    host.until_active("good")
    assert "bad" not in host.links()
    assert host.main_pid == pid


def test_template_gives_a_link_to_each_match_that_comes(host: Host) -> None:
    host.declare("each.toml", declaration("each", "xdp:hook*"))
    host.run("systemctl", "reload", SERVICE)
    wires = [host.wire(), host.wire()]
    for wire in wires:
        counter = host.counter(host.until_active(f"each@{wire[0]}"))
        with host.traffic(wire) as traffic:
            pass
        assert (counter(), traffic.passed) == (traffic.sent, 0)
