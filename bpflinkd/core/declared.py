"""Declared links: what files ask for, and what must be done about it. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar, cast

from bpflinkd.core import patterns
from bpflinkd.core.callers import ROOT, Owner
from bpflinkd.core.maps import AS_USUAL, MapWishes
from bpflinkd.core.model import Lifetime, Origin, Policy, Record
from bpflinkd.core.patterns import CgroupPattern, Interface, InterfacePattern, Pattern
from bpflinkd.core.sources import (
    Builtin,
    KeptObject,
    KeptSource,
    ObjectImage,
    PinnedProgram,
    Source,
    SourceText,
    StoredObject,
    StoredSource,
)
from bpflinkd.core.targets import CgroupPlace, CgroupTarget, Target, WantedTarget

DeclaredProgram: TypeAlias = ObjectImage | SourceText | KeptObject | KeptSource | PinnedProgram | Builtin


_T_co = TypeVar("_T_co", bound=WantedTarget | Pattern, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration(Generic[_T_co]):
    """One link of a file, or, with a pattern for a target, a template of links."""

    name: str
    target: _T_co
    program: DeclaredProgram
    asked: str = ""
    """The program as the file has it: `object filter.bpf.o edge`."""
    policy: Policy = Policy.ALERT
    lifetime: Lifetime = Lifetime.PINNED
    owner: Owner = ROOT
    maps: MapWishes = AS_USUAL
    """What becomes of the maps of a program that it replaces."""
    file: str
    """Path of the file."""
    line: int
    """Where it begins there, from 1."""
    template: str = ""
    """The template that it was made from, for one match."""

    @property
    def place(self) -> str:
        """For messages: `FILE:LINE`."""
        return f"{self.file}:{self.line}"

    @property
    def origin(self) -> Origin:
        """As the record keeps it."""
        return Origin(file=self.file, template=self.template, program=fingerprint(self.program))


AnyDeclaration: TypeAlias = Declaration[WantedTarget | Pattern]
"""A link or a template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A file, or one link of it, that was refused."""

    file: str
    name: str = ""
    """The link; empty where the whole file is refused."""
    sentence: str
    """With the place in the file at its beginning."""
    log: str = ""
    """The verifier's or compiler's, whole, where it spoke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declarations:
    """All files, as read at one moment."""

    links: tuple[Declaration[WantedTarget], ...] = ()
    templates: tuple[Declaration[Pattern], ...] = ()
    refused: tuple[Refused, ...] = ()

    @classmethod
    def of(cls, everything: Iterable[AnyDeclaration], refused: Iterable[Refused]) -> "Declarations":
        """Links and templates told apart."""
        links: list[Declaration[WantedTarget]] = []
        templates: list[Declaration[Pattern]] = []
        for each in everything:
            if isinstance(each.target, InterfacePattern | CgroupPattern):
                templates.append(cast(Declaration[Pattern], each))
            else:
                links.append(cast(Declaration[WantedTarget], each))
        return cls(links=tuple(links), templates=tuple(templates), refused=tuple(refused))

    def __iter__(self) -> Iterator[AnyDeclaration]:
        """Links and templates, file by file."""
        return iter(sorted((*self.links, *self.templates), key=lambda each: (each.file, each.line)))


def fingerprint(program: DeclaredProgram) -> str:
    """A text that changes exactly if the program asked for does."""
    match program:
        case ObjectImage() | KeptObject():
            told = "".join(f" {key}={value!r}" for key, value in program.constants)
            return f"object {program.sha256} {program.program or ''}{told}"
        case SourceText(sha256=sha256, program=name) | KeptSource(sha256=sha256, program=name):
            return f"source {sha256} {name or ''}"
        case PinnedProgram(path=path):
            return f"pin {path}"
        case Builtin(name=name):
            return f"builtin {name}"


# The difference between what is declared and what there is.


@dataclass(frozen=True, slots=True)
class Attach:
    """Make a link."""

    wanted: Declaration[WantedTarget]


@dataclass(frozen=True, slots=True)
class Replace:
    """Swap the program of a link that is there."""

    wanted: Declaration[WantedTarget]


@dataclass(frozen=True, slots=True)
class Settle:
    """Change what is said of a link, in the record only."""

    wanted: Declaration[WantedTarget]


@dataclass(frozen=True, slots=True)
class Move:
    """End a link and make it anew: its target is another one."""

    wanted: Declaration[WantedTarget]


@dataclass(frozen=True, slots=True)
class Detach:
    """End a link that is declared no more."""

    name: str


Step: TypeAlias = Detach | Settle | Replace | Move | Attach


def difference(
    wanted: Sequence[Declaration[WantedTarget]],
    records: Mapping[str, Record],
    refused: Iterable[str] = (),
    without_program: frozenset[str] = frozenset(),
) -> tuple[list[Step], list[Refused]]:
    """What must be done, in order, and what is refused.

    Args:
        wanted: plain links, templates expanded. Where two have one name, the first counts.
        records: every link there is.
        refused: files and directories that could not be read: their links are left alone.
        without_program: links whose program is gone and cannot be loaded again.
    """
    unreadable = list(refused)
    steps: list[Step] = []
    conflicts: list[Refused] = []
    seen: set[str] = set()
    for link in wanted:
        if link.name in seen:
            continue
        seen.add(link.name)
        record = records.get(link.name)
        if record is None:
            steps.append(Attach(link))
        elif conflict := _conflict(link, record):
            conflicts.append(Refused(file=link.file, name=link.name, sentence=f"{link.place}: {conflict}"))
        elif not _same_place(link.target, record.target):
            steps.append(Move(link))
        elif link.name in without_program or not _is_applied(link, record):
            steps.append(Replace(link))
        elif not _is_settled(link, record):
            steps.append(Settle(link))
    for name, record in records.items():
        file = record.origin.file
        if file and name not in seen and not within(file, unreadable):
            steps.append(Detach(name))
    return sorted(steps, key=lambda step: _ORDER.index(type(step))), conflicts


# What goes makes room for what comes: a hook may be wanted under another name.
_ORDER = (Detach, Settle, Replace, Move, Attach)


def within(file: str, unreadable: Sequence[str]) -> bool:
    """Whether a file is one of these, or in one of these directories."""
    return any(file == place or file.startswith(f"{place}/") for place in unreadable)


def _conflict(link: Declaration[WantedTarget], record: Record) -> str:
    if record.origin.file or _same_place(link.target, record.target):
        return ""
    return (
        f"a link {link.name!r} was made by a caller on {record.target}, not on {link.target}; "
        "detach it, or declare this one by another name"
    )


def _same_place(wanted: WantedTarget, has: Target) -> bool:
    if isinstance(wanted, CgroupPlace):
        return isinstance(has, CgroupTarget) and has.path == wanted.path
    return wanted == has


def _is_applied(link: Declaration[WantedTarget], record: Record) -> bool:
    """Whether the declared program was put in place already, whatever a caller has put there since."""
    if record.origin.file:
        return record.origin.program == fingerprint(link.program)
    return _is_from(link.program, record.generation.source)


def _is_from(wanted: DeclaredProgram, source: Source) -> bool:
    match wanted, source:
        case ((ObjectImage() | KeptObject()), StoredObject(sha256=sha256, program=name)):
            return wanted.sha256 == sha256 and wanted.program in (None, name)
        case ((SourceText() | KeptSource()), StoredSource(sha256=sha256, program=name)):
            return wanted.sha256 == sha256 and wanted.program in (None, name)
        case _:
            return wanted == source


def _is_settled(link: Declaration[WantedTarget], record: Record) -> bool:
    said = (link.policy, link.lifetime, link.owner, link.origin)
    return said == (record.policy, record.lifetime, record.owner, record.origin)


# Templates.


def expand(template: Declaration[Pattern], match: Interface | str) -> Declaration[WantedTarget]:
    """The link that a template makes for one match: an interface, or a cgroup's path."""
    pattern = template.target
    return Declaration(
        name=patterns.link_name(template.name, pattern, match),
        target=patterns.target_on(pattern, match),
        program=template.program,
        asked=template.asked,
        policy=template.policy,
        lifetime=template.lifetime,
        owner=template.owner,
        maps=template.maps,
        file=template.file,
        line=template.line,
        template=template.name,
    )
