"""From the moment at which a stranger changed a hook of ours until the signal that tells of it."""

import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from gi.repository import GLib

from bench import barelink
from bench.client import Client
from bench.hearing import Hearing
from bench.setting import LINKS, Place, Setting
from bench.stranger import Stranger
from bench.table import Row, against_floor, below, milliseconds
from bench.timing import once, percentile
from bpflinkd.core import attach_types
from bpflinkd.kernel import libbpf
from tests.lab import World
from tests.lab.daemon import builtin, pinned

_ROUNDS = 200
_SWEPT = 40
_RESTORES = 30
_SWEEP_S = 0.2
_QUIET_S = 30
_NOTICED_LIMIT_MS = 20
_RESTORED_LIMIT_MS = 50
_BURST = 10_000
_TURNS = 5
_UPDATES = 2_000
_UNRELATED_LIMIT_US = 1
_IDLE_LIMIT_PERCENT = 0.5


def by_netlink(setting: Setting) -> Iterator[Row]:
    """A stranger's programs follow one another on a hook that was ours."""
    with World() as world:
        place, stranger, hearing = _scene(world, "--sweep-interval", "3600", "--no-sentinel")
        _attached(place)
        stranger.do("detach", _link_id(place))
        times = _noticed(hearing, _ROUNDS, lambda n: stranger.do("attach", n % 2))
        yield against_floor("foreign attach to signal, by netlink / Peer.Ping", _pings(place), times, None)
        yield below("the same, p99", percentile(times, 99), _NOTICED_LIMIT_MS)


def by_sweep(setting: Setting) -> Iterator[Row]:
    """A stranger swaps the program behind our link, which only the sweep sees."""
    with World() as world:
        place, stranger, hearing = _scene(world, "--sweep-interval", str(_SWEEP_S), "--no-sentinel")
        _attached(place)
        link = _link_id(place)
        times = _noticed(hearing, _SWEPT, lambda n: stranger.do("update", link, n % 2))
        limit = _SWEEP_S * 1000 + 50
        yield below(f"foreign update to signal, by a sweep every {_SWEEP_S} s, longest", max(times), limit)


def by_sentinel(setting: Setting) -> Iterator[Row]:
    """The same where our program in the kernel tells of it."""
    with World() as world:
        place, stranger, hearing = _scene(world, "--sweep-interval", "3600")
        source = place.daemon.manager_property("WatchSources")["sentinel"]
        if not source["live"]:
            yield Row(what="foreign update to signal, by the sentinel", measured=f"none: {source['detail']}")
            return
        _attached(place)
        link = _link_id(place)
        times = _noticed(hearing, _ROUNDS, lambda n: stranger.do("update", link, n % 2))
        yield against_floor(
            "foreign update to signal, by the sentinel / Peer.Ping", _pings(place), times, None
        )
        yield below("the same, p99", percentile(times, 99), _NOTICED_LIMIT_MS)


def burst(setting: Setting) -> Iterator[Row]:
    """A stranger who changes a hook of ours thousands of times; each is told once."""
    with World() as world:
        place = Place(world)
        pins, cgroup = place.pair("egress", "theirs"), world.cgroup()
        stranger, hearing = Stranger(world, "lo", pins), Hearing(world, "ForeignChange")
        place.daemon.attach("edge", {"cgroup": cgroup, "attach_type": "egress"}, pinned(pins[0]))
        link = _link_id(place)
        stopped, meanwhile = threading.Event(), list[float]()
        asking = threading.Thread(target=_ask, args=(Client(world.bus), stopped, meanwhile))
        asking.start()
        begin = time.monotonic()
        done = stranger.do("burst", link, _BURST)
        hearing.wait(lambda: len(hearing.heard) >= _BURST, seconds=1200)
        told = time.monotonic()
        stopped.set()
        asking.join()
        time.sleep(2)  # any that is told twice
        after = [words[2]["after"][0] for _, _, words in hearing.heard]
        wrong = abs(len(after) - _BURST) + sum(a == b for a, b in itertools.pairwise(after))
    yield Row(
        what=f"{_BURST} foreign changes in {milliseconds((done - begin) * 1000)}: until all are told",
        measured=milliseconds((told - begin) * 1000),
    )
    yield Row(what="the same: lost or told twice", measured=str(wrong), target="0", met=wrong == 0)
    yield below("the same: Ping meanwhile, p99", percentile(meanwhile, 99), _NOTICED_LIMIT_MS)


def unrelated(setting: Setting) -> Iterator[Row]:
    """What a change of a hook that is none of ours costs its maker more."""
    without: list[float] = []
    with_it: list[float] = []
    with World() as world:
        place = Place(world)
        pins, cgroup = place.pair("egress", "theirs"), world.cgroup()
        program = libbpf.obj_get(str(pins[0]))
        directory = os.open(world.cgroup_dir(cgroup), os.O_RDONLY)
        update = barelink.updater(
            libbpf.link_create(program, directory, attach_types.by_name("egress").number), pins
        )
        for _ in range(_TURNS):
            for options, times in ((("--no-sentinel",), without), ((), with_it)):
                place.daemon.end()
                place.daemon.options = ["--sweep-interval", "3600", *options]
                place.daemon.start()
                live = place.daemon.manager_property("WatchSources")["sentinel"]["live"]
                assert live != bool(options)
                times.append(min(once(lambda: [update() for _ in range(_UPDATES)]) for _ in range(3)))
        os.close(directory)
    floor, measured = (median(times) / _UPDATES * 1000 for times in (without, with_it))
    yield below(
        "the sentinel on a bpf() call about another hook", measured - floor, _UNRELATED_LIMIT_US, "us"
    )
    yield Row(
        what="that call itself, without and with it",
        floor=f"{floor:.2f} us",
        measured=f"{measured:.2f} us",
        ratio=measured / floor,
    )


def restored(setting: Setting) -> Iterator[Row]:
    """A stranger takes the hook by netlink, and policy `restore` takes it back."""
    with World() as world:
        place, stranger, hearing = _scene(world, "--sweep-interval", "3600")
        times, swaps = [], []
        for _ in range(_RESTORES):
            # A new link each time: no fight goes on.
            place.daemon.attach("edge", {"xdp": "v0"}, builtin(), policy=GLib.Variant("s", "restore"))
            stranger.do("detach", _link_id(place))
            already = len(hearing.heard)
            asked = time.monotonic()
            taken = stranger.do("attach", 0)
            swaps.append((taken - asked) * 1000)
            back = hearing.first(
                lambda signal, words: signal == "StateChanged" and words[1] == "active", after=already
            )
            times.append((back - taken) * 1000)
            place.daemon.detach("edge")
        swap = median(swaps)
        limit = _RESTORED_LIMIT_MS + swap
        yield below("foreign attach until ours is back and told, median", median(times), limit, floor=swap)
        yield below(
            "the same, p99 (floor: the kernel's own attach)", percentile(times, 99), limit, floor=swap
        )


def nothing(setting: Setting) -> Iterator[Row]:
    """A thousand links, a sweep a second, and nothing happens."""
    place = setting.thousand
    place.daemon.end()
    options, place.daemon.options = place.daemon.options, ["--sweep-interval", "1"]
    place.daemon.start()
    try:
        time.sleep(5)  # what follows a start is not of interest
        before = _processor_time(place)
        time.sleep(_QUIET_S)
        used = _processor_time(place) - before
    finally:
        place.daemon.end()
        place.daemon.options = options
        place.daemon.start()
    yield below(f"watch of {LINKS} links, a sweep a second", used / _QUIET_S * 100, _IDLE_LIMIT_PERCENT, "%")


def _scene(world: World, *options: str) -> tuple[Place, Stranger, Hearing]:
    world.veth("v0", "v1")
    place = Place(world, *options)
    return place, Stranger(world, "v0", place.pair("drop", "theirs")), Hearing(world)


def _attached(place: Place) -> None:
    place.daemon.attach("edge", {"xdp": "v0"}, builtin())


def _pings(place: Place) -> list[float]:
    return [once(place.client.ping) for _ in range(_ROUNDS)]


def _ask(client: Client, stopped: threading.Event, times: list[float]) -> None:
    while not stopped.is_set():
        times.append(once(client.ping))
        time.sleep(0.002)


def _link_id(place: Place) -> int:
    return int(place.daemon.link("edge")["KernelLinkId"])


def _noticed(hearing: Hearing, rounds: int, change: Any) -> list[float]:
    """Milliseconds, change by change; each is to be told once."""
    times = []
    for number in range(rounds):
        already = len(hearing.heard)
        done = change(number)
        told = hearing.first(lambda signal, _words: signal == "ForeignChange", after=already)
        times.append((told - done) * 1000)
        time.sleep(0.01)
    return times


def _processor_time(place: Place) -> float:
    """Seconds that all threads of the daemon have run. Source: /proc/PID/schedstat, nanoseconds."""
    assert place.daemon.process is not None
    tasks = Path(f"/proc/{place.daemon.process.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
