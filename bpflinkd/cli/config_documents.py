"""Declared links and grants as rows and documents."""

import grp
from typing import Any, Final

from bpflinkd.cli.render import Column
from bpflinkd.cli.words import owner, user_name
from bpflinkd.core import sources, targets
from bpflinkd.core.callers import Group, Unit, User
from bpflinkd.core.declared import AnyDeclaration, DeclaredProgram
from bpflinkd.core.grants import SOURCES, Grant, Holder
from bpflinkd.core.model import Policy
from bpflinkd.core.patterns import CgroupPattern, InterfacePattern, Pattern
from bpflinkd.core.targets import WantedTarget

LINK_COLUMNS: Final = (
    Column("NAME", cut="end"),
    Column("KIND"),
    Column("TARGET", cut="middle"),
    Column("PROGRAM", cut="end"),
    Column("POLICY"),
    Column("OWNER", cut="end"),
    Column("DECLARED AT", cut="middle"),
)
GRANT_COLUMNS: Final = (
    Column("HOLDER", cut="end"),
    Column("TARGETS", cut="end"),
    Column("SOURCES", cut="end"),
    Column("PROGRAM TYPES", cut="end"),
    Column("POLICIES", cut="end"),
    Column("KERNEL MEMORY"),
    Column("AT MOST", cut="end"),
    Column("GRANTED AT", cut="middle"),
)
_SIZES: Final = ((30, "G"), (20, "M"), (10, "K"))
"""Letters of amounts of memory, and by how many bits they move the number."""


def link_row(link: AnyDeclaration) -> list[str]:
    """The cells of a declared link or template."""
    return [
        link.name,
        "template" if _is_template(link) else "link",
        str(link.target),
        link.asked,
        str(link.policy),
        link.owner.name if isinstance(link.owner, Unit) else owner(link.owner.uid),
        link.place,
    ]


def link_document(link: AnyDeclaration) -> dict[str, Any]:
    """The document of a declared link or template."""
    kind, value, name = _program(link.program)
    return {
        "name": link.name,
        "template": _is_template(link),
        "target": _target(link.target),
        "program": {kind: value, "name": name},
        "policy": link.policy,
        "lifetime": link.lifetime,
        "owner": _holder(link.owner),
        "file": link.file,
        "line": link.line,
    }


def grant_row(grant: Grant) -> list[str]:
    """The cells of a grant."""
    limits = (f"{grant.max_links} links", f"{grant.max_maps} maps", _amount(grant.max_memory))
    types = _type_names(grant)
    return [
        _holder_text(grant.holder),
        ", ".join(map(str, grant.targets)),
        ", ".join(_sources(grant)),
        "any" if types is None else ", ".join(types),
        ", ".join(_policies(grant)),
        "yes" if grant.kernel_memory else "no",
        ", ".join(limits),
        grant.place,
    ]


def grant_document(grant: Grant) -> dict[str, Any]:
    """The document of a grant."""
    return {
        "holder": _holder(grant.holder),
        "targets": [str(target) for target in grant.targets],
        "sources": _sources(grant),
        "program_types": _type_names(grant),
        "policies": _policies(grant),
        "kernel_memory": grant.kernel_memory,
        "max_links": grant.max_links,
        "max_maps": grant.max_maps,
        "max_memory": grant.max_memory,
        "file": grant.file,
        "line": grant.line,
    }


def _holder(holder: Holder) -> dict[str, Any]:
    """As an owner has it in every document; the name is null where the number has none here."""
    match holder:
        case User(uid=uid):
            return {"uid": uid, "user": user_name(uid)}
        case Group(gid=gid):
            return {"gid": gid, "group": _group_name(gid)}
        case Unit(name=name):
            return {"unit": name}


def _holder_text(holder: Holder) -> str:
    match holder:
        case User(uid=uid):
            return f"user {owner(uid)}"
        case Group(gid=gid):
            return f"group {_group_name(gid) or gid}"
        case Unit(name=name):
            return f"unit {name}"


def _group_name(gid: int) -> str | None:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return None


def _sources(grant: Grant) -> list[str]:
    return [source for source in SOURCES if source in grant.sources]


def _type_names(grant: Grant) -> list[str] | None:
    """None for any that the targets take."""
    if grant.program_types is None:
        return None
    return sorted(program_type.name.lower() for program_type in grant.program_types)


def _policies(grant: Grant) -> list[str]:
    return [policy.value for policy in Policy if policy in grant.policies]


def _amount(size: int) -> str:
    """Bytes as the file may have them: 64M."""
    for bits, letter in _SIZES:
        if size and not size % (1 << bits):
            return f"{size >> bits}{letter}"
    return f"{size} bytes"


def _is_template(link: AnyDeclaration) -> bool:
    return isinstance(link.target, InterfacePattern | CgroupPattern)


def _target(target: WantedTarget | Pattern) -> dict[str, Any]:
    """As in the document of a link; of a template with patterns, and with all that is asked of a match."""
    match target:
        case InterfacePattern(name=name, mode=mode):
            more = {"altname": target.altname, "mac": target.mac, "driver": target.driver}
            return {"xdp": name, "mode": mode, **{key: value for key, value in more.items() if value}}
        case targets.XdpTarget(interface=interface, mode=mode):
            return {"xdp": interface, "mode": mode}
        case targets.CgroupTarget(path=path, attach_type=kind) | CgroupPattern(path=path, attach_type=kind):
            return {"cgroup": path, "attach_type": kind.name if kind else None}
        case targets.CgroupPlace(path=path):
            return {"cgroup": path, "attach_type": None}
        case targets.KprobeTarget(kind=kprobe, symbol=symbol, offset=offset, cookie=cookie):
            place = {} if target.at_return else {"offset": offset}
            return {kprobe: symbol, **place, "cookie": cookie}
        case targets.KprobeMultiTarget(kind=kprobe, pattern=pattern, cookie=cookie):
            return {kprobe: pattern, "cookie": cookie}


def _program(program: DeclaredProgram) -> tuple[str, str, str | None]:
    """Kind, value, and the name of the program in it where it was given."""
    match program:
        case sources.ObjectImage(sha256=sha256, program=name):
            return "object", sha256, name
        case sources.SourceText(sha256=sha256, program=name):
            return "source", sha256, name
        case sources.KeptObject(sha256=sha256, program=name):
            return "kept", sha256, name
        case sources.KeptSource(sha256=sha256, program=name):
            return "kept-source", sha256, name
        case sources.PinnedProgram(path=path):
            return "pin", path, None
        case sources.Builtin(name=name):
            return "builtin", name, None
