"""Declared links: the files of `links.d`, read into what the core decides on."""

import hashlib
import os
import pwd
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bpflinkd.config import pieces, place
from bpflinkd.config.checks import Fault
from bpflinkd.config.files import Files
from bpflinkd.config.listing import Listing
from bpflinkd.config.pieces import BadText, Pieces, Placed
from bpflinkd.config.settings import Config
from bpflinkd.config.table import Asked, Wanted
from bpflinkd.config.trust import ROOT, Trust, Unfit
from bpflinkd.core.declared import AnyDeclaration, Declaration, Declarations, DeclaredProgram, Refused
from bpflinkd.core.model import Owner
from bpflinkd.core.sources import (
    MAX_OBJECT,
    MAX_SOURCE,
    Builtin,
    KeptObject,
    KeptSource,
    ObjectImage,
    PinnedProgram,
    SourceText,
)

VENDOR: Final = Path("/usr/lib/bpflinkd/links.d")
MAX_FILE: Final = 4 << 20
"""Bytes of the largest file of links: some 25,000 of them."""
_MOST_TOLD: Final = 10
"""Faults of one file that are told one by one."""


class _Image(NamedTuple):
    data: bytes
    sha256: str


class _Fault(NamedTuple):
    """A fault, and the piece that it is in."""

    placed: Placed
    fault: Fault


def directories(config_dir: Path) -> tuple[Path, ...]:
    """Where links are declared, the last wins. What a vendor ships is for the system's instance alone."""
    own = config_dir / "links.d"
    return (VENDOR, own) if config_dir == Config().config_dir else (own,)


def read(where: Sequence[Path]) -> Declarations:
    """Read directories once; see `LinksDirectory`."""
    return LinksDirectory(where).read()


class LinksDirectory:
    """Directories of declared links. What has not changed between two readings is not parsed again.

    A file takes the place of one of the same name in an earlier directory. A fault refuses the file that
    it is in; the others are read all the same.
    """

    def __init__(
        self,
        where: Sequence[Path],
        files: Sequence[Path] = (),
        *,
        trusted: frozenset[int] | None = ROOT,
    ) -> None:
        """Of these directories, and of these files besides.

        `trusted` are the uids that may own what is read; with None nobody's rights are judged.
        """
        self._where = [os.path.abspath(directory) for directory in where]
        self._files = [os.path.abspath(file) for file in files]
        self._trusted = trusted
        self._texts: Files[Pieces] = Files("file", MAX_FILE, pieces.read)
        self._objects: Files[_Image] = Files("object", MAX_OBJECT, _object)
        self._sources: Files[_Image] = Files("source", MAX_SOURCE, _source)
        self.accepted: tuple[str, ...] = ()
        """The files that were not refused when they were read last, in their order."""

    def read(self) -> Declarations:
        """Read all files as they are now. Nothing is raised: what cannot be read is refused."""
        for files in (self._texts, self._objects, self._sources):
            files.begin()
        trust = Trust(self._trusted)
        found = Listing(trust)
        for directory in self._where:
            found.add(directory)
        links: list[AnyDeclaration] = []
        refused = list(found.refused)
        accepted = []
        reading = _Reading(trust, self._objects, self._sources)
        for file in (*found.files(), *self._files):
            declared, faults = self._read_file(file, trust, reading)
            links += declared
            refused += faults
            if not faults:
                accepted.append(file)
                continue
            # Or their links would look as if nobody wanted them.
            for other in found.replaced(file):
                why = f"{file}, which takes its place, was refused"
                refused.append(_refused(other, None, why))
        self.accepted = tuple(accepted)
        return Declarations.of(links, refused)

    def _read_file(
        self, file: str, trust: Trust, reading: "_Reading"
    ) -> tuple[list[AnyDeclaration], list[Refused]]:
        """What a file declares, or why it is refused."""
        try:
            text = self._texts.read(file, trust)
        except BadText as error:
            return [], [_refused(file, error.place, str(error))]
        except Unfit as error:
            return [], [_refused(file, None, str(error))]
        declared, faults = reading.file(file, text)
        return ([], _told(file, faults)) if faults else (declared, [])


class _Reading:
    """Turns what files want into declarations, at one moment."""

    def __init__(self, trust: Trust, objects: Files[_Image], sources: Files[_Image]) -> None:
        self._trust = trust
        self._objects = objects
        self._sources = sources
        self._names: dict[str, str] = {}
        """Where each name is declared. Refused files count as far as they can be read: their links stay."""
        self._uids: dict[str, int | None] = {}

    def file(self, file: str, text: Pieces) -> tuple[list[AnyDeclaration], list[_Fault]]:
        """What one file declares, and what is wrong with it."""
        declared = []
        faults = []
        directory = os.path.dirname(file)
        for placed in text:
            piece = placed.piece
            faults += [_Fault(placed, fault) for fault in piece.faults]
            for wanted, offset in zip(piece.links, piece.lines, strict=True):
                line = placed.before + offset
                before = self._names.setdefault(wanted.name, f"{file}:{line}")
                try:
                    if before != f"{file}:{line}":
                        raise _At(f"the name {wanted.name} is declared already, at {before}", "name")
                    declared.append(self._declaration(wanted, file, line, directory))
                except _At as error:
                    fault = Fault((*wanted.path, *error.keys), str(error))
                    faults.append(_Fault(placed, fault))
        return declared, faults

    def _declaration(self, wanted: Wanted, file: str, line: int, directory: str) -> AnyDeclaration:
        return Declaration(
            name=wanted.name,
            target=wanted.target,
            program=self._program(wanted.program, directory),
            asked=" ".join(filter(None, (wanted.program.key, wanted.program.value, wanted.program.name))),
            policy=wanted.policy,
            lifetime=wanted.lifetime,
            owner=Owner(uid=self._uid(wanted.owner)),
            file=file,
            line=line,
        )

    def _program(self, asked: Asked, directory: str) -> DeclaredProgram:
        match asked.key:
            case "object":
                image = self._image(self._objects, asked, directory)
                return ObjectImage(data=image.data, sha256=image.sha256, program=asked.name)
            case "source":
                image = self._image(self._sources, asked, directory)
                return SourceText(data=image.data, sha256=image.sha256, program=asked.name)
            case "kept":
                return KeptObject(sha256=asked.value, program=asked.name)
            case "kept-source":
                return KeptSource(sha256=asked.value, program=asked.name)
            case "pin":
                return PinnedProgram(path=asked.value)
            case _:
                return Builtin(name=asked.value)

    def _image(self, files: Files[_Image], asked: Asked, directory: str) -> _Image:
        try:
            return files.read(os.path.join(directory, asked.value), self._trust)
        except Unfit as error:
            raise _At(str(error), "program", asked.key) from None

    def _uid(self, owner: str | int) -> int:
        if isinstance(owner, int):
            return owner
        if owner not in self._uids:
            self._uids[owner] = _uid_of(owner)
        uid = self._uids[owner]
        if uid is None:
            hint = ", or write the uid without quotes" if owner.isdecimal() else ""
            raise _At(f"there is no user {owner[:80]!r} on this host; make it first{hint}", "owner")
        return uid


class _At(Exception):
    """A fault at keys of the link that is looked at."""

    def __init__(self, sentence: str, *keys: str) -> None:
        super().__init__(sentence)
        self.keys = keys


def _uid_of(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):  # ValueError: a NUL in it
        return None


def _object(data: bytes, _before: _Image | None) -> _Image:
    if not data:
        raise Unfit("the object file is empty")
    if not data.startswith(b"\x7fELF"):
        raise Unfit(
            "the object is not an ELF file; compile C with clang -O2 -g -target bpf -c, or give it as source"
        )
    return _Image(data, hashlib.sha256(data).hexdigest())


def _source(data: bytes, _before: _Image | None) -> _Image:
    if not data:
        raise Unfit("the source file is empty")
    if b"\0" in data:
        raise Unfit("the source file holds a NUL byte, so it is not C; give an ELF file as object")
    return _Image(data, hashlib.sha256(data).hexdigest())


def _told(file: str, faults: Sequence[_Fault]) -> list[Refused]:
    """A sentence a fault, by where they stand, and one for those beyond the first few."""
    told = []
    places: dict[str, place.Places] = {}
    for placed, fault in faults[:_MOST_TOLD]:
        text = placed.piece.text
        if text not in places:
            places[text] = place.places(text)
        line, column = place.of(places[text], fault.path)
        told.append((place.Place(placed.before + line, column), fault.sentence))
    found = [_refused(file, where, sentence) for where, sentence in sorted(told)]
    if len(faults) > _MOST_TOLD:
        found.append(_refused(file, None, f"and {len(faults) - _MOST_TOLD} faults more"))
    return found


def _refused(file: str, where: place.Place | None, sentence: str) -> Refused:
    stands = f"{file}:{where.line}:{where.column}" if where else file
    return Refused(file=file, sentence=f"{stands}: {sentence}")
