"""Declared links: boot, reload, and targets that appear."""

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

from gi.repository import GLib

from bench.client import PROPERTIES
from bench.hearing import Hearing
from bench.setting import LINKS, Place, Setting
from bench.table import Row, below, milliseconds
from bench.timing import once, percentile
from tests.lab.compiled import compile_c
from tests.lab.daemon import MANAGER, ROOT
from tests.lab.world import World

_BOOTS = 3
_RELOADS = 10
_HOTPLUGS = 30
_BOOT_LIMIT_S = 5
_RELOAD_LIMIT_MS = 200
_HOTPLUG_LIMIT_MS = 50
_LOOP_LIMIT_MS = 20
_GIVE_WAY = 0.0005
"""Seconds: who hears the signals here is not to hold up who times the calls."""


def boot(setting: Setting) -> Iterator[Row]:
    """From exec until every declared link is attached, and the bus name taken."""
    with World() as world:
        parent = _groups(world)
        object_file = _object(world)
        _declare(world, [_link(n, f"cgroup:{parent}/group-{n:04}", object_file) for n in range(LINKS)])
        daemon = world.daemon("--sweep-interval", "3600", ready=False)
        daemon.end()
        first, again = [], []
        for _ in range(_BOOTS):
            for place in (daemon.state_dir, daemon.pins):
                shutil.rmtree(place, ignore_errors=True)
            first.append(once(daemon.start) / 1000)
            _all_active(daemon.links())
            daemon.end()
            shutil.rmtree(daemon.pins)
            again.append(once(daemon.start) / 1000)
            _all_active(daemon.links())
            daemon.end()
        yield below(f"first boot, {LINKS} declared cgroup links", median(first), _BOOT_LIMIT_S, "s")
        yield below(f"boot, {LINKS} links of the store, nothing pinned", median(again), _BOOT_LIMIT_S, "s")


def reload(setting: Setting) -> Iterator[Row]:
    """One declaration of a thousand has another program."""
    with World() as world:
        parent = _groups(world)
        object_file = _object(world)
        links = [_link(n, f"cgroup:{parent}/group-{n:04}", object_file) for n in range(LINKS)]
        _declare(world, links)
        daemon = world.daemon("--sweep-interval", "3600")
        nothing, one = [], []
        for turn in range(_RELOADS):
            nothing.append(once(lambda: daemon.call("Reload")))
            before = {name: link["Program"]["id"] for name, link in daemon.links().items()}
            program = object_file if turn % 2 else None
            links[LINKS // 2] = _link(LINKS // 2, f"cgroup:{parent}/group-{LINKS // 2:04}", program)
            _declare(world, links)
            one.append(once(lambda: daemon.call("Reload")))
            after = {name: link["Program"]["id"] for name, link in daemon.links().items()}
            swapped = sum(before[name] != after[name] for name in before)
            if swapped != 1:
                raise RuntimeError(f"{swapped} programs were swapped instead of one")
        yield Row(
            what=f"Reload, {LINKS} declared links, nothing changed", measured=milliseconds(median(nothing))
        )
        yield below(f"Reload, 1 of {LINKS} changed, 1 swap", median(one), _RELOAD_LIMIT_MS)


def hotplug(setting: Setting) -> Iterator[Row]:
    """From the command that makes the target until the signal that its link is attached."""
    with World() as world:
        parent = world.cgroup()
        object_file = _object(world)
        _declare(
            world,
            [
                '[[link]]\nname = "pods"\ntarget = "xdp:pod*"\nprogram = {builtin = "pass"}\n',
                f'[[link]]\nname = "svc"\ntarget = "cgroup:{parent}/*"\n'
                f'program = {{object = "{object_file}"}}\n',
            ],
        )
        place = Place(world)
        added = _Added(world)
        interfaces = [
            added.after(
                f"pods@pod{n}",
                partial(world.ip, "link", "add", f"pod{n}", "type", "veth", "peer", f"x{n}"),
            )
            for n in range(_HOTPLUGS)
        ]
        yield below("new interface to attached, by template", median(interfaces), _HOTPLUG_LIMIT_MS)
        groups = [
            added.after(f"svc@g{n}", (world.cgroup_dir(parent) / f"g{n}").mkdir) for n in range(_HOTPLUGS)
        ]
        yield below("new cgroup to attached, by template", median(groups), _HOTPLUG_LIMIT_MS)
        arguments = GLib.Variant("(ss)", (MANAGER, "Version"))
        pings: list[float] = []

        def version() -> None:
            place.client.call(ROOT, PROPERTIES, "Get", arguments)

        done = threading.Event()

        def ping() -> None:
            while not done.is_set():
                pings.append(once(version))

        sys.setswitchinterval(_GIVE_WAY)
        pinging = threading.Thread(target=ping)
        pinging.start()
        began = time.monotonic()
        for n in range(LINKS):
            (world.cgroup_dir(parent) / f"burst{n}").mkdir()
        made = time.monotonic() - began
        added.wait({f"svc@burst{n}" for n in range(LINKS)})
        took = time.monotonic() - began
        done.set()
        pinging.join()
        yield Row(
            what=f"{LINKS} cgroups made in {made:.2f} s: until all are attached", measured=f"{took:.2f} s"
        )
        yield below("the same: Properties.Get meanwhile, p99", percentile(pings, 99), _LOOP_LIMIT_MS)


class _Added:
    """When which link was added."""

    def __init__(self, world: World) -> None:
        self._hearing = Hearing(world, "LinkAdded")

    def after(self, name: str, make: Callable[[], object]) -> float:
        """Milliseconds from before `make` until the link is told."""
        began = time.monotonic()
        make()
        return (self._hearing.first(lambda _signal, words: words[0] == name) - began) * 1000

    def wait(self, names: set[str]) -> None:
        """Until all of these are told."""
        self._hearing.wait(lambda: names <= {words[0] for _, _, words in self._hearing.heard})


def _groups(world: World) -> str:
    parent = world.cgroup()
    for n in range(LINKS):
        (world.cgroup_dir(parent) / f"group-{n:04}").mkdir()
    return parent


def _object(world: World) -> Path:
    return compile_c(Path(__file__).parent / "programs" / "egress.bpf.c", world.dir / "egress.bpf.o")


def _link(number: int, target: str, object_file: Path | None) -> str:
    program = f'object = "{object_file}"' if object_file else 'builtin = "pass"'
    return f'[[link]]\nname = "egress-{number:04}"\ntarget = "{target} egress"\nprogram = {{ {program} }}\n'


def _declare(world: World, links: list[str]) -> None:
    place = world.dir / "etc" / "links.d"
    place.mkdir(parents=True, exist_ok=True)
    (place / "links.toml").write_text("\n".join(links))


def _all_active(links: dict[str, dict[str, object]]) -> None:
    active = sum(link["State"] == "active" for link in links.values())
    if active != LINKS:
        raise RuntimeError(f"{active} links are active instead of {LINKS}")
