"""Templates at work: which links they ask for, now and when a match appears. For the worker thread only."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias, cast

from bpflinkd.core import declared
from bpflinkd.core.declared import Declaration
from bpflinkd.core.links import Entry, Links
from bpflinkd.core.model import Record
from bpflinkd.core.patterns import CgroupPattern, Interface, InterfacePattern, Pattern
from bpflinkd.core.ports import Kernel
from bpflinkd.core.targets import CgroupPlace, CgroupTarget, IfIndex, WantedTarget, XdpHook, XdpTarget

Wanted: TypeAlias = Declaration[WantedTarget]
"""A link that is asked for: declared by itself, or by a template for one match."""


class Templates:
    """The templates of all files."""

    def __init__(self, links: Links, kernel: Kernel) -> None:
        self._links = links
        self._kernel = kernel
        self._for_interfaces: list[Declaration[InterfacePattern]] = []
        self._for_cgroups: list[Declaration[CgroupPattern]] = []
        self._declined: dict[str, str] = {}
        """Links that are not asked for, with the match: a caller ended it, or it could not be made."""
        self._seen: set[tuple[str, IfIndex]] = set()
        """Interfaces that were looked at."""

    @property
    def cgroup_patterns(self) -> frozenset[str]:
        """Where cgroups may appear that matter."""
        return frozenset(template.target.path for template in self._for_cgroups)

    def take(self, templates: Iterable[Declaration[Pattern]], unreadable: Sequence[str]) -> None:
        """These and no others from now on, except those of files that cannot be read now."""
        before: list[Declaration[Pattern]] = [*self._for_interfaces, *self._for_cgroups]
        self._for_interfaces, self._for_cgroups = [], []
        for template in (*templates, *(t for t in before if declared.within(t.file, unreadable))):
            if isinstance(template.target, InterfacePattern):
                self._for_interfaces.append(cast(Declaration[InterfacePattern], template))
            else:
                self._for_cgroups.append(cast(Declaration[CgroupPattern], template))
        self._declined.clear()

    # What is asked for

    def everywhere(self, plain: Iterable[Wanted]) -> Iterator[Wanted]:
        """A link for each match that is there now. A link of its own on an interface goes first.

        Args:
            plain: what is declared beside the templates.
        """
        targets = [link.target for link in plain]
        targets += [e.record.target for e in self._links.values() if not e.record.origin.file]
        taken = {target.interface for target in targets if isinstance(target, XdpTarget)}
        for cgroups in self._for_cgroups:
            for path in self._kernel.cgroups(cgroups.target.path):
                yield declared.expand(cgroups, path)
        if not self._for_interfaces:
            return
        interfaces = self._kernel.described_interfaces()
        self._seen = {(interface.name, interface.ifindex) for interface in interfaces}
        for template in self._for_interfaces:
            for interface in interfaces:
                if interface.name not in taken and template.target.matches(interface):
                    taken.add(interface.name)
                    yield declared.expand(template, interface)

    def for_interface(self, ifindex: IfIndex, name: str) -> Iterator[Wanted]:
        """The link that an interface is to have, if any, and has not."""
        interface = self._kernel.described_interface(ifindex) if self._for_interfaces else None
        if interface is not None and interface.name == name:  # else another tiding will tell
            self._seen.add((name, ifindex))
            yield from self._for(interface)

    def for_cgroup(self, path: str) -> Iterator[Wanted]:
        """The links that a cgroup is to have and has not."""
        # A sweep comes by for thousands that have theirs: what tells that must cost little.
        made = {self._links[name].record.origin.template for name in self._links.on_cgroup(path)}
        for template in self._for_cgroups:
            if template.name not in made and template.target.matches(path):
                yield from self._new(declared.expand(template, path))

    def unseen(self) -> Iterator[Wanted]:
        """What no watcher told of."""
        for pattern in self.cgroup_patterns:
            for path in self._kernel.cgroups(pattern):
                yield from self.for_cgroup(path)
        if any(template.target.altname for template in self._for_interfaces):
            # An interface that is down tells nobody of a new alternative name.
            for interface in self._kernel.described_interfaces():
                yield from self._for(interface)
        elif self._for_interfaces:
            now = {(name, ifindex) for name, ifindex in self._kernel.interfaces().items()}
            for name, ifindex in now - self._seen:
                yield from self.for_interface(ifindex, name)
            self._seen &= now

    def _for(self, interface: Interface) -> Iterator[Wanted]:
        if self._holder(interface.name) is not None:
            return
        fitting = (t for t in self._for_interfaces if t.target.matches(interface))
        for template in fitting:
            yield from self._new(declared.expand(template, interface))
            return

    def _new(self, wanted: Wanted) -> Iterator[Wanted]:
        if wanted.name not in self._links and wanted.name not in self._declined:
            yield wanted

    # What is not, any more

    def renamed(self, ifindex: IfIndex, name: str) -> tuple[Entry, Wanted] | None:
        """What a template made for an interface that is called otherwise now, and what it is to be."""
        entry = self._on(ifindex)
        if entry is None or not self._for_interfaces:
            return None
        target, interface = entry.record.target, self._kernel.described_interface(ifindex)
        assert isinstance(target, XdpTarget)
        if interface is None or target.interface in (interface.name, *interface.altnames):
            return None
        template = self._template_of(entry.record)
        if interface.name != name or template is None or not template.target.matches(interface):
            return None
        return entry, declared.expand(template, interface)

    def mismatched(self, ifindex: IfIndex) -> Entry | None:
        """What a template made for an interface that matches no more: it has another address, say."""
        entry = self._on(ifindex)
        interface = self._kernel.described_interface(ifindex) if entry is not None else None
        if entry is None or interface is None:
            return None
        template = self._template_of(entry.record)
        return entry if template is not None and not template.target.matches(interface) else None

    def decline(self, name: str, target: WantedTarget) -> None:
        """A caller ended a link, or it cannot be made: not again while the target is there."""
        match target:
            case XdpTarget(interface=place) | CgroupTarget(path=place) | CgroupPlace(path=place):
                self._declined[name] = place
            case _:
                pass  # templates are for interfaces and cgroups

    def gone(self, match: str) -> None:
        """An interface or cgroup is gone: if it comes again, it is a new one."""
        self._declined = {name: at for name, at in self._declined.items() if at != match}
        self._seen = {(name, ifindex) for name, ifindex in self._seen if name != match}

    def _on(self, ifindex: IfIndex) -> Entry | None:
        """The link that a template made for an interface."""
        for entry in self._links.values():
            if entry.record.origin.template and entry.record.hook == XdpHook(ifindex):
                return entry
        return None

    def _holder(self, interface: str) -> Record | None:
        """The link of ours that is on an interface, or waits for it."""
        for entry in self._links.values():
            target = entry.record.target
            if isinstance(target, XdpTarget) and target.interface == interface:
                return entry.record
        return None

    def _template_of(self, record: Record) -> Declaration[InterfacePattern] | None:
        return next((t for t in self._for_interfaces if t.name == record.origin.template), None)
