"""Declared links: the files of `links.d`, read into what the core decides on."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bpflinkd.config import listing
from bpflinkd.config.accounts import Accounts
from bpflinkd.config.directories import At, Directories, Stand
from bpflinkd.config.files import Files
from bpflinkd.config.link_table import LINKS, Asked, Wanted
from bpflinkd.config.trust import ROOT, Trust, Unfit
from bpflinkd.core.callers import Owner, Unit, User
from bpflinkd.core.declared import AnyDeclaration, Declaration, Declarations, DeclaredProgram
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


class _Image(NamedTuple):
    data: bytes
    sha256: str


def directories(config_dir: Path) -> tuple[Path, ...]:
    """Where links are declared, the last wins."""
    return listing.directories(config_dir, LINKS.directory)


def read(where: Sequence[Path]) -> Declarations:
    """Read directories once; see `LinksDirectory`."""
    return LinksDirectory(where).read()


class LinksDirectory:
    """Directories of declared links. See `Directories`; objects and sources are not read again either."""

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
        self._files = Directories(LINKS, where, files)
        self._trusted = trusted
        self._objects: Files[_Image] = Files("object", MAX_OBJECT, _object)
        self._sources: Files[_Image] = Files("source", MAX_SOURCE, _source)

    @property
    def accepted(self) -> tuple[str, ...]:
        """The files that were not refused when they were read last, in their order."""
        return self._files.accepted

    def read(self) -> Declarations:
        """Read all files as they are now. Nothing is raised: what cannot be read is refused."""
        for files in (self._objects, self._sources):
            files.begin()
        trust = Trust(self._trusted)
        reading = _Reading(trust, self._objects, self._sources)
        links, refused = self._files.read(trust, reading.declaration)
        return Declarations.of(links, refused)


class _Reading:
    """Turns what files want into declarations, at one moment."""

    def __init__(self, trust: Trust, objects: Files[_Image], sources: Files[_Image]) -> None:
        self._trust = trust
        self._objects = objects
        self._sources = sources
        self._names: dict[str, Stand] = {}
        """Where each name is declared. Refused files count as far as they can be read: their links stay."""
        self._accounts = Accounts()

    def declaration(self, wanted: Wanted, stand: Stand) -> AnyDeclaration:
        """The declaration, or `At`."""
        before = self._names.setdefault(wanted.name, stand)
        if before != stand:
            raise At(f"the name {wanted.name} is declared already, at {before}", "name")
        return Declaration(
            name=wanted.name,
            target=wanted.target,
            program=self._program(wanted.program, os.path.dirname(stand.file)),
            asked=" ".join(filter(None, (wanted.program.key, wanted.program.value, wanted.program.name))),
            policy=wanted.policy,
            lifetime=wanted.lifetime,
            owner=self._owner(wanted.owner),
            maps=wanted.maps,
            file=stand.file,
            line=stand.line,
        )

    def _program(self, asked: Asked, directory: str) -> DeclaredProgram:
        match asked.key:
            case "object":
                image = self._image(self._objects, asked, directory)
                return ObjectImage(
                    data=image.data, sha256=image.sha256, program=asked.name, constants=asked.constants
                )
            case "source":
                image = self._image(self._sources, asked, directory)
                return SourceText(data=image.data, sha256=image.sha256, program=asked.name)
            case "kept":
                return KeptObject(sha256=asked.value, program=asked.name, constants=asked.constants)
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
            raise At(str(error), "program", asked.key) from None

    def _owner(self, owner: str | int | Unit) -> Owner:
        return owner if isinstance(owner, Unit) else User(uid=self._accounts.uid(owner, "owner"))


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
