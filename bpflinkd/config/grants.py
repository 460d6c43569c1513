"""Grants: the files of `grants.d`, read into what the core decides on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bpflinkd.config import listing
from bpflinkd.config.accounts import Accounts
from bpflinkd.config.directories import At, Directories, Stand
from bpflinkd.config.grant_table import GRANTS, WantedGrant, WantedGroup, WantedUser
from bpflinkd.config.trust import ROOT, Trust
from bpflinkd.core.callers import Group, Unit, User
from bpflinkd.core.declared import Refused
from bpflinkd.core.grants import Grant, Grants, Holder


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantsRead:
    """All files, as read at one moment."""

    grants: Grants = ()
    """In the order of the files, and in each as written. Of a refused file none is in force."""
    refused: tuple[Refused, ...] = ()


def directories(config_dir: Path) -> tuple[Path, ...]:
    """Where grants are given, the last wins."""
    return listing.directories(config_dir, GRANTS.directory)


class GrantsDirectory:
    """Directories of grants. See `Directories`."""

    def __init__(
        self,
        where: Sequence[Path],
        files: Sequence[Path] = (),
        *,
        trusted: frozenset[int] | None = ROOT,
    ) -> None:
        """As of `LinksDirectory`."""
        self._files = Directories(GRANTS, where, files)
        self._trusted = trusted

    @property
    def accepted(self) -> tuple[str, ...]:
        """The files that were not refused when they were read last, in their order."""
        return self._files.accepted

    def read(self) -> GrantsRead:
        """Read all files as they are now. Nothing is raised: what cannot be read is refused."""
        accounts = Accounts()

        def make(wanted: WantedGrant, stand: Stand) -> Grant:
            return _grant(wanted, stand, accounts)

        grants, refused = self._files.read(Trust(self._trusted), make)
        return GrantsRead(grants=tuple(grants), refused=tuple(refused))


def _grant(wanted: WantedGrant, stand: Stand, accounts: Accounts) -> Grant:
    """The grant, or `At`."""
    return Grant(
        holder=_holder(wanted.holder, accounts),
        targets=wanted.targets,
        sources=wanted.sources,
        program_types=wanted.program_types,
        policies=wanted.policies,
        kernel_memory=wanted.kernel_memory,
        max_links=wanted.max_links,
        max_maps=wanted.max_maps,
        max_memory=wanted.max_memory,
        file=stand.file,
        line=stand.line,
    )


def _holder(wanted: WantedUser | WantedGroup | Unit, accounts: Accounts) -> Holder:
    """Who holds it, or `At`."""
    match wanted:
        case WantedUser(user=user):
            uid = accounts.uid(user, "user")
            if uid == 0:
                raise At(
                    "root needs no grant, and none can limit it; give it to whom it is meant for", "user"
                )
            return User(uid=uid)
        case WantedGroup(group=group):
            return Group(gid=accounts.gid(group, "group"))
        case Unit():
            return wanted
