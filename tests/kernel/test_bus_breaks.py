"""The connection to the bus breaks: links and daemon stay, and it is on the bus again at once."""

import os
import time

import pytest
from gi.repository import GLib

from tests.lab import Daemon
from tests.lab.as_user import AsUser, memfd
from tests.lab.daemon import builtin
from tests.lab.poison import break_connection, require_poison
from tests.lab.size import Size
from tests.lab.world import until

pytestmark = pytest.mark.cold

NOBODY = 65534


def test_a_message_that_glib_cannot_read_costs_a_moment(daemon: Daemon) -> None:
    require_poison()
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    before, pid = daemon.link("edge"), daemon.process and daemon.process.pid
    attacker = AsUser(daemon.world, NOBODY)
    fd = memfd(b"sent along")
    for turn in range(10):
        break_connection(daemon, attacker, [fd])
        assert daemon.link("edge") == before
        if turn == 1:
            fds = Size(daemon).fds
    os.close(fd)
    until(lambda: Size(daemon).fds <= fds, "descriptors are closed")
    assert daemon.process
    assert (daemon.process.pid, daemon.process.poll()) == (pid, None)
    assert "the connection to the" in daemon.said()
    assert daemon.replace("edge", builtin()) == 2


def test_a_holder_is_watched_on_the_new_connection(daemon: Daemon) -> None:
    require_poison()
    holder, attacker = AsUser(daemon.world, 0), AsUser(daemon.world, NOBODY)
    options = {"lifetime": GLib.Variant("s", "owner"), "grace": GLib.Variant("t", 100_000)}
    holder.attach("edge", {"xdp": "v0"}, builtin(), **options)
    break_connection(daemon, attacker)
    time.sleep(0.3)
    assert daemon.state("edge") == "active", "its holder is there still"
    holder.end()
    until(lambda: not daemon.links(), "the end of the link")


def test_without_a_bus_it_ends_and_says_so(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    assert daemon.process
    daemon.world.stop_bus()
    assert daemon.process.wait(10) == 3
    daemon.process = None  # there is no bus that could tell of its end
    assert "cannot be reached" in daemon.said()
