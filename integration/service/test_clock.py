"""Somebody sets the clock back: what is measured with a clock goes on being right."""

from collections.abc import Callable

from integration.service.host import Host, until

A_DAY = 86_400


def test_a_link_is_put_back_however_the_clock_is_set(host: Host) -> None:
    wire = host.wire()
    link = host.attach("restored", f"xdp:{wire[0]}", "count_new", "--policy", "restore")

    def put_back(before: int) -> Callable[[], bool]:
        return lambda: host.link("restored")["kernel_link_id"] not in {None, before}

    # The pause after the first time would last a day, were it measured by the clock that is set back.
    for back in (0, A_DAY):
        if back:
            host.undo("sh", "-c", f"date -s @$(( $(date +%s) + {back} ))")
            host.run("sh", "-c", f"date -s @$(( $(date +%s) - {back} ))")
        before = link["kernel_link_id"]
        host.run("bpftool", "link", "detach", "id", str(before))
        until(put_back(before), f"it is put back, the clock {back} seconds late", seconds=60)
        link = host.until_active("restored")
    host.ctl("replace", "restored", "--builtin", "pass")
    assert host.link("restored")["generation"] == 2
