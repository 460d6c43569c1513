"""One link of one kind, and whether all who know of it agree: D-Bus, records, pins, kernel, packets."""

import json
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any, TypeAlias

from gi.repository import GLib

from bpflinkd.core.targets import CgroupHook, CgroupId
from bpflinkd.kernel import holders
from bpflinkd.store.sqlite import FILE_NAME, SqliteStore
from integration.conformance.kinds import Cgroup, Kind, Xdp, compiled
from tests.lab.daemon import Daemon, elf
from tests.lab.maps import Counters
from tests.lab.pulse import Pulse
from tests.lab.world import run, until

NAME = "it"
PROBE_LINKS = (7, 8)
"""BPF_LINK_TYPE_PERF_EVENT and BPF_LINK_TYPE_KPROBE_MULTI, of include/uapi/linux/bpf.h."""

View: TypeAlias = dict[str, Any]
"""All properties of the link on D-Bus."""


class Lab:
    """One kind of link, one daemon, and all that can be seen of both."""

    def __init__(self, kind: Kind, daemon: Daemon) -> None:
        self.kind, self.daemon = kind, daemon
        self.log = daemon.world.dir / "strace.log"
        first = compiled(kind.program)
        # The same program from another object: a loader ignores what follows the sections.
        second = daemon.world.dir / f"second_{kind.program}.o"
        second.write_bytes(first.read_bytes() + bytes(8))
        self.objects = first, second
        self._pulse = Pulse(kind)
        self._strangers = self._link_ids()

    # Operations

    def absent(self) -> None:
        """No link, and a process that has loaded a program before: its first load asks libbpf's questions."""
        self.present()
        self.daemon.detach(NAME)

    def present(self) -> None:
        """A link at its first generation."""
        if NAME in self.daemon.links():
            self.daemon.detach(NAME)
        self.attach()

    def attach(self) -> None:
        self.daemon.attach(NAME, self.kind.target(), elf(self.objects[0]))

    def replace(self) -> None:
        fresh = GLib.Variant("b", True)
        self.daemon.replace(NAME, elf(self.objects[1]), fresh_maps=fresh)

    def detach(self) -> None:
        self.daemon.detach(NAME)

    def restart_if_killed(self) -> None:
        if self.daemon.process is None or self.daemon.process.poll() is not None:
            self.daemon.end()
            self.daemon.start()

    # What there is

    def agreed(self) -> View | None:
        """The link, once all who know of it have been found to say the same; None where there is none."""
        links = self.daemon.links()
        pins = {str(pin.relative_to(self.daemon.pins)) for pin in self.daemon.pins.rglob("*")}
        if not links:
            assert pins == set()
            assert self._held() == []
            assert self._stored() == (None, 0)
            # A link that lost its last pin is let go a little later.
            until(lambda: self._link_ids() == self._strangers, "the end of the kernel's link")
            assert self._on_hook() in ([], None)
            return None
        assert set(links) == {NAME}
        view: View = links[NAME]
        assert (view["State"], view["Reason"]) == ("active", "")
        assert pins == self._pins_of_a_link(view["Generation"]), sorted(pins)
        program, link_id = view["Program"]["id"], view["KernelLinkId"]
        home = self.daemon.pins / NAME
        pinned = bpftool("link", "show", "pinned", home / "link")
        assert pinned["id"] == link_id
        loaded = bpftool("prog", "show", "pinned", home / "program")
        assert loaded["id"] == program
        maps = bpftool("map", "show", "pinned", home / "maps" / "hits")
        assert loaded["map_ids"] == [maps["id"]]
        assert self._held() == [link_id]
        assert self._stored() == ((view["Generation"], program), len({*view["Source"][1:]}))
        until(lambda: self._link_ids() == self._strangers | {link_id}, "the end of all links but one")
        assert self._on_hook() in ([program], None)
        self._counts(home / "maps" / "hits")
        return view

    def _counts(self, pin: Path) -> None:
        """Each event is counted once, and by the program whose map is pinned."""
        hits = Counters(pin)
        try:
            before = hits[0]
            sent = self._pulse.send(4)
            until(lambda: hits[0] - before >= sent, "the events to be counted")
            assert hits[0] - before == sent
        finally:
            hits.close()

    def _pins_of_a_link(self, generation: int) -> set[str]:
        slot = {"slot"} if self._dispatched else set()
        program = {"program", "maps", "maps/hits"}
        pins = {"program_{}", "maps_{}", "maps_{}/hits"}
        kept = {f"kept/{pin.format(number)}" for number in range(1, generation) for pin in pins}
        kept |= {"kept"} if kept else set()
        return {NAME, *(f"{NAME}/{pin}" for pin in {"link"} | program | slot | kept)}

    @property
    def _dispatched(self) -> bool:
        return "kprobe" in self.kind.feature

    def _on_hook(self) -> list[int] | None:
        """Programs on the hook; None where the kernel does not tell."""
        match self.kind:
            case Xdp():
                (shown,) = json.loads(self.kind.world.ip("-j", "link", "show", self.kind.interfaces[0]))
                return [each["prog"]["id"] for each in shown.get("xdp", {}).get("attached", [])]
            case Cgroup():
                place = self.kind.world.cgroup_dir(self.kind.target()["cgroup"])
                return [each["id"] for each in bpftool("cgroup", "show", place)]
            case _:
                return None

    def _link_ids(self) -> set[int]:
        """Links on this kind's hook in the kernel, ours or not.

        Interfaces have the same numbers in each namespace: for XDP that the hook takes one link has to do.
        """
        match self.kind:
            case Xdp():
                ours = self._on_hook() or []
                return {link.id for link in holders.links() if link.prog_id in ours}
            case Cgroup():
                place = self.kind.world.cgroup_dir(self.kind.target()["cgroup"])
                here = CgroupHook(CgroupId(place.stat().st_ino))
                return {link.id for link in holders.links() if link.hook == here}
            case _:
                return {link.id for link in holders.links() if link.type in PROBE_LINKS}

    def _held(self) -> list[int]:
        """Ids of the links that the daemon has open."""
        assert self.daemon.process
        found = []
        for fd in Path(f"/proc/{self.daemon.process.pid}/fdinfo").iterdir():
            try:
                lines = fd.read_text().splitlines()
            except FileNotFoundError:
                continue  # closed meanwhile
            found += [int(line.split()[1]) for line in lines if line.startswith("link_id:")]
        return found

    def _stored(self) -> tuple[tuple[int, int] | None, int]:
        """Generation and program of the record, and how many objects are kept. Read from a copy."""
        with tempfile.TemporaryDirectory(dir=self.daemon.world.dir) as place:
            for file in self.daemon.state_dir.glob(f"{FILE_NAME}*"):
                shutil.copy(file, place)
            store = SqliteStore(Path(place))
            try:
                items = store.load()
                numbers = [generation.number for generation in store.history(NAME)]
            finally:
                store.close()
            with sqlite3.connect(Path(place) / FILE_NAME) as db:
                (objects,) = db.execute("SELECT count(*) FROM object").fetchone()
            db.close()
        if not items:
            return None, objects
        (item,) = items
        assert item.intent is None
        assert not item.ending
        assert item.record is not None
        generation = item.record.generation
        assert numbers == list(range(1, generation.number + 1))
        return (generation.number, generation.program.id), objects - (generation.number - 1)


def bpftool(*words: str | Path) -> Any:
    """What it shows; it says nothing where there is nothing to show."""
    return json.loads(run("bpftool", "-j", *words).strip() or "[]")
