"""The commands that mend what the doctor finds. Pure.

A command is a tuple of words, ready for a process; a shell must quote them, as paths may hold anything.
"""

from collections.abc import Iterable
from typing import Final, TypeAlias

from bpflinkd.core import names
from bpflinkd.core.callers import Owner
from bpflinkd.core.ids import LinkId
from bpflinkd.core.model import Lifetime, LinkView, Record, State
from bpflinkd.core.sources import (
    Builtin,
    PinnedProgram,
    ProgramById,
    ProgramFd,
    StoredObject,
    StoredSource,
)
from bpflinkd.core.survey import Attached
from bpflinkd.core.targets import CgroupTarget, KprobeMultiTarget, KprobeTarget, XdpMode, XdpTarget

Command: TypeAlias = tuple[str, ...]
_CTL: Final = "bpflinkctl"
_LONGEST: Final = 60
"""Characters of a name that is suggested."""
_IP_WORDS: Final = {XdpMode.NATIVE: "xdpdrv", XdpMode.GENERIC: "xdpgeneric", XdpMode.OFFLOAD: "xdpoffload"}


class Names:
    """Names for links that are not there yet; none is given twice."""

    def __init__(self, taken: Iterable[str], strays: Iterable[str]) -> None:
        """
        Args:
            taken: names of links.
            strays: paths of pins, whose last parts are encoded names that cannot be had either.
        """
        self._taken = {*taken, *(names.decode(path.rpartition("/")[2]) for path in strays)}

    def suggest(self, target: XdpTarget | CgroupTarget) -> str:
        """A name that tells where it is: `xdp-eth0`, `cgroup-web.slice-egress`."""
        if isinstance(target, XdpTarget):
            text = f"xdp-{target.interface}"
        else:
            text = f"cgroup-{target.path.strip('/') or 'root'}-{target.attach_type}"
        plain = "".join(c if c.isascii() and (c.isalnum() or c in "_.:@+-") else "-" for c in text)
        # What is special about a path is at its end.
        stem = plain if len(plain) <= _LONGEST else plain[: plain.index("-")] + plain[-_LONGEST:]
        name, number = names.check(stem), 1
        while name in self._taken:
            number += 1
            name = f"{stem}-{number}"
        self._taken.add(name)
        return name


def adopt(name: str, attached: Attached) -> Command:
    """Own it from now on."""
    if attached.link_id is not None:
        return _CTL, "adopt", name, f"--link-id={attached.link_id}"
    assert isinstance(attached.target, XdpTarget)
    return _CTL, "adopt", name, f"--xdp={attached.target.interface}"


def remove(
    target: XdpTarget | CgroupTarget, link_id: LinkId | None, prog_id: int, cgroup_root: str
) -> Command:
    """Take what is not ours off its hook, with the tool for it."""
    if link_id is not None:
        return "bpftool", "link", "detach", "id", str(link_id)
    if isinstance(target, XdpTarget):
        return "ip", "link", "set", "dev", target.interface, _IP_WORDS.get(target.mode, "xdp"), "off"
    place = cgroup_root + target.path
    return "bpftool", "cgroup", "detach", place, target.attach_type.name, "id", str(prog_id)


def detach(record: Record, asker: Owner) -> Command:
    """End a link of ours."""
    return (_CTL, "detach", record.name, *_force(record, asker))


def claim(record: Record) -> Command:
    """Hold a link of the lifetime `owner`."""
    return _CTL, "claim", record.name


def keep(link_id: LinkId, bpffs: str) -> Command:
    """Let a bpf_link outlive its process."""
    return "bpftool", "link", "pin", "id", str(link_id), f"{bpffs}/link_{link_id}"


def put_back(view: LinkView, asker: Owner) -> tuple[Command, ...]:
    """Attach our program again: by a new link where ours runs another's program, else by a replace."""
    record = view.record
    fetched, words = _source(record)
    force = _force(record, asker)
    if view.health.state is not State.TAMPERED:
        return (*fetched, (_CTL, "replace", record.name, *words, *force))
    if record.lifetime is Lifetime.OWNER:
        return (detach(record, asker),)
    return (*fetched, detach(record, asker), (_CTL, "attach", record.name, *_target(record), *words, *force))


def reload() -> Command:
    """Apply the files of links.d."""
    return _CTL, "reload"


def unpin(path: str) -> Command:
    """Remove a pin."""
    return "rm", path


def unpin_all(path: str) -> Command:
    """Remove a directory of pins, or a pin."""
    return "rm", "-r", path


def _force(record: Record, asker: Owner) -> Command:
    return () if record.owner == asker else ("--force",)


def _source(record: Record) -> tuple[tuple[Command, ...], Command]:
    """Where the program of now is to be had: what fetches it, and the words that name it then."""
    source, name = record.generation.source, record.name
    match source:
        case StoredObject(program=program) | StoredSource(program=program):
            kept = f"{name}.exported"
            is_object = isinstance(source, StoredObject)
            file = f"{kept}/{name}.bpf.o" if is_object else f"{kept}/{name}.c"
            option = "--object" if is_object else "--source"
            export = (_CTL, "export", name, f"--directory={kept}")
            return (export,), (option, file, "--program", program)
        case PinnedProgram(path=path):
            return (), (f"--pinned={path}",)
        case Builtin(name=builtin):
            return (), (f"--builtin={builtin}",)
        case ProgramById() | ProgramFd():
            return (), (f"--id={record.generation.program.id}",)


def _target(record: Record) -> Command:
    """The target, and what else an attach says."""
    target = record.target
    words = [str(target)]
    match target:
        case XdpTarget(mode=mode) if mode is not XdpMode.AUTO:
            words.append(f"--mode={mode}")
        case CgroupTarget(path=path, attach_type=attach_type):
            words = [f"cgroup:{path}", f"--attach-type={attach_type}"]
        case KprobeTarget(cookie=cookie) | KprobeMultiTarget(cookie=cookie) if cookie:
            words.append(f"--cookie={cookie}")
        case _:
            pass
    return (*words, f"--policy={record.policy}", f"--lifetime={record.lifetime}", f"--owner={record.owner}")
