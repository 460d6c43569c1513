"""The doctor's findings about what others attached and pinned. Pure."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from bpflinkd.core import remedies
from bpflinkd.core.findings import Facts, Finding, Kind, Level
from bpflinkd.core.ids import LinkId
from bpflinkd.core.model import LinkView, Process
from bpflinkd.core.survey import Attached, PinKind, SeenLink
from bpflinkd.core.targets import CgroupTarget

_INIT: Final = 1
"""The pid of the service manager."""
_MOST_COMMANDS: Final = 8
_MOST_NAMED: Final = 4
"""Processes, or paths, in one sentence."""
_NO_TAG: Final = "0" * 16


def findings(facts: Facts) -> Iterator[Finding]:
    """Everything about them."""
    systems: list[Attached] = []
    strays: list[Attached] = []
    others: list[Attached] = []
    stray_links = frozenset(link_id for link_id, paths in facts.pins.items() if _below(paths, facts.strays))
    for attached in facts.survey.attached:
        if facts.is_ours(attached.link_id):
            continue
        if attached.link_id in stray_links:
            strays.append(attached)
        else:
            (systems if _is_systems(facts, attached) else others).append(attached)
    for attached in others:
        yield _unowned(facts, attached)
    yield from _stray_pins(facts, strays)
    yield from _twice(facts, frozenset(map(id, systems)))
    yield from _pins(facts)
    yield from _processes(facts)
    yield from _systems(systems)


def _below(paths: Iterable[str], places: frozenset[str]) -> bool:
    return bool(places) and any(place in places for path in paths for place in (path, *_above(path)))


def _words(processes: Sequence[Process]) -> str:
    return _few([f"{process.comm} (pid {process.pid})" for process in processes])


def _few(words: Sequence[str]) -> str:
    """The first ones, and how many more there are."""
    more = len(words) - _MOST_NAMED
    return ", ".join(words[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _is_systems(facts: Facts, attached: Attached) -> bool:
    """Whether it looks like systemd's own, or like a container's device rules. A name proves nothing, so
    what has a bpf_link must be held by the service manager as well."""
    if not isinstance(attached.target, CgroupTarget):
        return False
    if attached.link_id is not None:
        held = any(process.pid == _INIT for process in facts.holders(attached))
        return held and attached.program.name.startswith("sd_")
    return attached.program.name.startswith("sd_") or attached.target.attach_type.name == "device"


# What is attached


def _unowned(facts: Facts, attached: Attached) -> Finding:
    """A program on a hook that no link of ours attaches."""
    program, target, holders = attached.program, attached.target, facts.holders(attached)
    by = f"; held by {_words(holders)}" if holders else ""
    if attached.link_id is None and isinstance(target, CgroupTarget):
        return Finding(
            level=Level.WARNING,
            kind=Kind.UNOWNED_PROGRAM,
            where=str(target),
            what=f"program {program} is attached without a bpf_link{by}: nobody owns it, and "
            "any process with CAP_NET_ADMIN can detach it",
            advice="it cannot be adopted; have its tool attach it by a bpf_link, or where nobody needs it:",
            commands=(remedies.remove(target, None, program.id, facts.survey.cgroup_root),),
        )
    adopt = (remedies.adopt(facts.names.suggest(target), attached),)
    if attached.link_id is None:
        return Finding(
            level=Level.WARNING,
            kind=Kind.NETLINK_XDP,
            where=str(target),
            what=f"program {program} is attached by netlink{by}: any process with "
            "CAP_NET_ADMIN can replace it",
            advice="to own it as a bpf_link:",
            commands=adopt,
        )
    what = f"program {program} is attached by bpf_link {attached.link_id}"
    paths = facts.pins.get(attached.link_id, ())
    if holders and not paths:
        return Finding(
            level=Level.WARNING,
            kind=Kind.UNPINNED_LINK,
            where=str(target),
            what=f"{what}, which no pin keeps: it ends with {_words(holders)}",
            advice="to own it, whatever becomes of that process:",
            commands=adopt,
        )
    pinned = f"pinned at {_few(paths)}" if paths else "and neither a pin nor a process that keeps it is seen"
    # Where a process looks after it, somebody may be said to own it.
    return Finding(
        level=Level.NOTE if holders else Level.WARNING,
        kind=Kind.UNOWNED_LINK,
        where=str(target),
        what=f"{what}, {pinned}{by}" + ("" if holders else ": nobody owns it"),
        advice="to own it:",
        commands=adopt,
    )


def _systems(attached: Sequence[Attached]) -> Iterator[Finding]:
    """Few lines for what may be on every unit of the host."""
    names = Counter((each.program.name, str(each.target.attach_type)) for each in attached)
    for (name, attach_type), number in sorted(names.items()):
        whose = "systemd" if name.startswith("sd_") else "systemd and container runtimes"
        times = "on one cgroup" if number == 1 else f"on {number} cgroups"
        yield Finding(
            level=Level.NOTE,
            kind=Kind.SYSTEM_PROGRAM,
            where="",
            what=f"{name or '(unnamed)'} ({attach_type}) is {times}, as {whose} attach such programs",
        )


# What is attached twice


def _twice(facts: Facts, systems: Collection[int]) -> Iterator[Finding]:
    """The same program on a cgroup more than once, or on one and on one above it, which counts for both."""
    places: defaultdict[tuple[str, str, str], list[Attached]] = defaultdict(list)
    for attached in facts.survey.attached:
        target = attached.target
        if (
            isinstance(target, CgroupTarget)
            and attached.program.tag != _NO_TAG
            and id(attached) not in systems
        ):
            places[target.path, target.attach_type.name, attached.program.tag].append(attached)
    for (path, attach_type, tag), here in places.items():
        above = (places.get((place, attach_type, tag)) for place in _above(path))
        upper = next((found for found in above if found), None)
        if upper is not None:
            yield _same(facts, here[0], upper[0])
        for again in here[1:]:
            yield _same(facts, again, here[0])


def _above(path: str) -> Iterator[str]:
    """The directories above a path, the nearest first."""
    while path != "/":
        path = path.rpartition("/")[0] or "/"
        yield path


def _same(facts: Facts, one: Attached, other: Attached) -> Finding:
    assert isinstance(one.target, CgroupTarget)
    ours = facts.by_link.get(one.link_id or LinkId(0))
    if ours is not None:
        command = remedies.detach(ours.record, facts.asker)
    else:
        command = remedies.remove(one.target, one.link_id, one.program.id, facts.survey.cgroup_root)
    place = "on the same cgroup" if one.target == other.target else f"on {other.target}, which is above it"
    return Finding(
        level=Level.WARNING,
        kind=Kind.ATTACHED_TWICE,
        where=str(one.target),
        what=f"program {one.program}, attached by {_whose(ours, one)}, is the same (by its tag) as the one "
        f"{place}, attached by {_whose(facts.by_link.get(other.link_id or LinkId(0)), other)}: it runs twice",
        advice="where one is enough:",
        commands=(command,),
    )


def _whose(ours: LinkView | None, attached: Attached) -> str:
    if ours is not None:
        return f"our link {ours.record.name!r}"
    return f"bpf_link {attached.link_id}" if attached.link_id is not None else "PROG_ATTACH"


# Pins


def _stray_pins(facts: Facts, attached: Sequence[Attached]) -> Iterator[Finding]:
    for stray in facts.strays:
        inside = [
            each
            for each in attached
            if each.link_id is not None and _below(facts.pins[each.link_id], frozenset((stray,)))
        ]
        adopt = tuple(remedies.adopt(facts.names.suggest(each.target), each) for each in inside)
        runs = ", ".join(f"bpf_link {each.link_id} on {each.target}" for each in inside)
        yield Finding(
            level=Level.WARNING,
            kind=Kind.STRAY_PINS,
            where=stray,
            what="it is among our pins, and belongs to no link of ours"
            + (f"; what it pins is attached: {runs}" if runs else ""),
            advice="to own what is attached and remove the rest:"
            if runs
            else "nobody refers to it; what else it keeps attached ends with it:",
            commands=(*adopt, remedies.unpin_all(stray)),
        )


def _pins(facts: Facts) -> Iterator[Finding]:
    links = {link.id: link for link in facts.survey.links}
    running = {link.prog_id for link in links.values()} | {each.program.id for each in facts.survey.attached}
    running |= {view.record.generation.program.id for view in facts.links}
    known = facts.strays | facts.kept
    for pin in facts.survey.pins:
        if _below((pin.path,), known):
            continue
        link = links.get(LinkId(pin.id)) if pin.kind is PinKind.LINK else None
        if link is not None and link.dead and not facts.is_ours(link.id):
            yield Finding(
                level=Level.WARNING,
                kind=Kind.DEAD_PIN,
                where=pin.path,
                what=f"it pins bpf_link {link.id} ({link.kind}), which is attached to nothing any more: it "
                "was detached, or its target is gone; a link cannot be attached again",
                advice="nothing can come of it; to remove it:",
                commands=(remedies.unpin(pin.path),),
            )
        elif pin.kind is PinKind.PROGRAM and pin.id not in running:
            yield Finding(
                level=Level.NOTE,
                kind=Kind.IDLE_PROGRAM,
                where=pin.path,
                what=f"it pins program id {pin.id}, which no bpf_link, no interface and no cgroup that was "
                "looked at runs; a tc filter, a socket, another program or another network namespace may",
                advice="where nothing needs it:",
                commands=(remedies.unpin(pin.path),),
            )


# Links of other kinds


def _processes(facts: Facts) -> Iterator[Finding]:
    """What ends with a process, of the kinds that we cannot own."""
    told = {each.link_id for each in facts.survey.attached}
    ending: defaultdict[tuple[Process, ...], list[SeenLink]] = defaultdict(list)
    for link in facts.survey.links:
        holders = facts.survey.link_holders.get(link.id, ())
        if holders and not (link.dead or link.id in told or link.id in facts.pins or facts.is_ours(link.id)):
            ending[holders].append(link)
    for holders, links in ending.items():
        kinds = Counter(link.kind for link in links)
        counted = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
        yield Finding(
            level=Level.NOTE,
            kind=Kind.UNPINNED_LINK,
            where="",
            what=f"bpf_links that no pin keeps end with {_words(holders)}: {counted}",
            advice="tracing tools want it so; to keep one that should stay, pin it:",
            commands=tuple(remedies.keep(link.id, facts.survey.bpffs) for link in links[:_MOST_COMMANDS]),
        )
