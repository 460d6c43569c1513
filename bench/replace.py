"""Replace over D-Bus, the program being loaded already, against what it cannot be faster than."""

import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from bench import barelink
from bench.setting import Place, Setting
from bench.table import Row, against_floor
from bench.timing import Step, interleaved
from tests.lab.daemon import pinned

_XDP_ROUNDS = 150
_QUIET = 0.03
"""Seconds before each XDP swap; see `xdp`."""
_CGROUP_ROUNDS = 1000
_PEER_ROUNDS = 40


def xdp(setting: Setting) -> Iterator[Row]:
    """XDP: the bare update is on a second veth, between two programs that nothing else uses.

    The kernel's XDP dispatcher is global: a program that starts or stops being used by any interface
    costs a wait for RCU. So the two links share no program, and each swap here, bare or over D-Bus,
    brings one program into use and takes one out of it. What ran just before (a dentry or a program
    freed) may leave a grace period under way, which the next swap then waits for on top of its own:
    so each begins after a quiet while.
    """
    place = setting.small
    ours, bare = place.pair("drop", "xdp_ours"), place.pair("drop", "xdp_bare")
    swap, update = _xdp_link(place, "ours", ours), _bare_link(place, "bare", bare)
    yield against_floor(
        "XDP replace over D-Bus / bare bpf_link_update",
        *interleaved(update, swap, _XDP_ROUNDS, pause=_QUIET),
        1.25,
    )
    # With every program in use on another interface as well, no swap waits for RCU any more.
    for number, program in enumerate((*ours, *bare)):
        place.world.veth(f"use{number}", f"use{number}p")
        barelink.make(place.world, f"use{number}", program)
    yield against_floor(
        "the same, all programs in use elsewhere: no RCU wait",
        *interleaved(update, swap, _XDP_ROUNDS, pause=_QUIET),
        None,
    )
    peer, bare = place.pair("drop", "xdp_peer"), place.pair("drop", "xdp_floor")
    update = _bare_link(place, "floor", bare)
    yield against_floor(
        "XDP replace by `ip link set xdp`, whole process / bare",
        *interleaved(update, _netlink(place, "peer", peer), _PEER_ROUNDS, pause=_QUIET),
        None,
    )
    place.daemon.detach("ours")


def cgroup(setting: Setting) -> Iterator[Row]:
    """cgroup: the kernel takes microseconds, so the floor is a round trip on the bus."""
    place = setting.small
    pair = place.pair("egress", "egress_swap")
    path = place.world.cgroup()
    place.daemon.attach("cg", {"cgroup": path, "attach_type": "egress"}, pinned(pair[0]))
    swap = place.client.replacer("cg", pair)
    yield against_floor(
        "cgroup replace over D-Bus, durable / Peer.Ping",
        *interleaved(place.client.ping, swap, _CGROUP_ROUNDS),
        2.5,
    )
    place.daemon.attach("back", {"cgroup": path, "attach_type": "egress"}, pinned(pair[0]))
    place.daemon.replace("back", pinned(pair[1]))
    yield against_floor(
        "Rollback to the generation before / a replace of a loaded program",
        *interleaved(swap, place.client.rollback("back"), _CGROUP_ROUNDS),
        1.5,
    )
    place.daemon.detach("back")
    # What the ratio can be at best: the main loop has to answer, and the disk to confirm.
    read, commit = place.client.read("cg"), _durable_commit(place.world.dir / "floor.sqlite")

    def at_best() -> None:
        read()
        commit()

    yield against_floor(
        "the least of that: Properties.Get + one durable SQLite commit / Peer.Ping",
        *interleaved(place.client.ping, at_best, _CGROUP_ROUNDS),
        None,
    )
    place.daemon.detach("cg")


def _xdp_link(place: Place, interface: str, programs: tuple[Path, Path]) -> Step:
    place.world.veth(interface, f"{interface}p")
    place.daemon.attach(interface, {"xdp": interface}, pinned(programs[0]))
    return place.client.replacer(interface, programs)


def _bare_link(place: Place, interface: str, programs: tuple[Path, Path]) -> Step:
    place.world.veth(interface, f"{interface}p")
    return barelink.updater(barelink.make(place.world, interface, programs[0]), programs)


def _netlink(place: Place, interface: str, programs: tuple[Path, Path]) -> Step:
    place.world.veth(interface, f"{interface}p")
    turns = itertools.cycle(programs)

    def replace() -> None:
        place.world.ip("-force", "link", "set", "dev", interface, "xdpdrv", "pinned", str(next(turns)))

    return replace


def _durable_commit(path: Path) -> Step:
    """A row written the way the daemon's store does, on the same file system."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE row (number INTEGER PRIMARY KEY, text TEXT)")
    numbers = itertools.count()

    def commit() -> None:
        db.execute("INSERT OR REPLACE INTO row VALUES (?, ?)", (next(numbers) % 16, "x" * 300))

    return commit
