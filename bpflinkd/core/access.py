"""May this caller do that? Pure: callers, owners, grants in; nothing, or a refusal, out.

Three things are told apart. Ownership says who may change a link. A grant says which programs may be put
where. Administrators (root, and whom polkit calls one) need neither, but a word (`force`) for what another
owns.
"""

from collections.abc import Collection
from typing import Final

from bpflinkd.core import grants
from bpflinkd.core.attach_types import CGROUP_ATTACH_TYPES
from bpflinkd.core.callers import Action, Caller, Owner, Unit, User
from bpflinkd.core.errors import BpflinkdError, LimitExceeded, NotAuthorized, NotOwner
from bpflinkd.core.grants import Grant, Grants
from bpflinkd.core.model import Confinement, Policy, Record
from bpflinkd.core.sources import PinnedProgram, ProgramById, WantedProgram
from bpflinkd.core.targets import CgroupPlace, CgroupTarget, WantedTarget

PLACE: Final = "/etc/bpflinkd/grants.d"


class Unsanctioned(Exception):
    """Refused, unless polkit allows `action` to this caller. Raised before anything is touched."""

    def __init__(self, action: Action, refusal: BpflinkdError) -> None:
        super().__init__(str(refusal))
        self.action = action
        self.refusal = refusal


class Access:
    """The rules, with the grants that are in force."""

    def __init__(self) -> None:
        self.grants: Grants = ()

    def administer(self, caller: Caller, action: Action, verb: str) -> None:
        """What only administrators do. `Unsanctioned`."""
        if not caller.may(action):
            sentence = f"{_who(caller)} may not {verb}: only root may, or whom polkit allows it"
            raise Unsanctioned(action, NotAuthorized(sentence))

    def change(self, caller: Caller, record: Record, verb: str, *, force: bool = False) -> bool:
        """Change a link in any way.

        Returns:
            Whether an administrator overrides the owner: that is to be told.

        Raises:
            NotOwner, Unsanctioned.
        """
        if owns(caller, record.owner):
            if not caller.may(Action.CHANGE_OWN):
                refusal = NotAuthorized(
                    f"polkit does not let {_who(caller)} change link {record.name!r}, though it owns it"
                )
                raise Unsanctioned(Action.CHANGE_OWN, refusal)
            return False
        not_owner = NotOwner(
            f"link {record.name!r} is owned by {described(record.owner)}, so {_who(caller)} may not {verb}; "
            "an administrator may with --force"
        )
        if not force:
            raise not_owner
        if not caller.may(Action.CHANGE_ANY):
            raise Unsanctioned(Action.CHANGE_ANY, not_owner)
        return True

    def see_file(self, caller: Caller, record: Record) -> None:
        """Read the file that a link's program was loaded from. `Unsanctioned`."""
        if not owns(caller, record.owner):
            verb = f"read the file of link {record.name!r}, which {described(record.owner)} owns"
            self.administer(caller, Action.VIEW, verb)

    def put(
        self,
        caller: Caller,
        target: WantedTarget,
        program: WantedProgram,
        policy: Policy | None,
        *,
        action: Action,
    ) -> Confinement | None:
        """Put a program on a target.

        Args:
            policy: None where it stays as it is.
            action: what makes an administrator of a caller here.

        Returns:
            How the program must be loaded; None: as root's.

        Raises:
            NotAuthorized, Unsanctioned.
        """
        if isinstance(program, PinnedProgram | ProgramById) and caller.uid != 0:
            what = "pin" if isinstance(program, PinnedProgram) else "id"
            raise NotAuthorized(
                f"{_who(caller)} may not name the program for {target} by its {what}: it would be opened "
                "with rights that only root has. Open it yourself, and send the descriptor"
            )
        if caller.may(action):
            return None
        had = grants.of(self.grants, caller)
        about = [grant for grant in had if grant.covers(target)]
        confinement = _confinement(about, target, program, policy)
        if confinement is None:
            raise Unsanctioned(action, _no_grant(caller, target, program, policy, about))
        return confinement

    def limit_links(
        self, caller: Caller, owner: Owner, target: WantedTarget, owned: Collection[Record]
    ) -> None:
        """Refuse a link more than the grants allow. `NotAuthorized` where there is none, `LimitExceeded`.

        Args:
            owned: the links that the owner has.
        """
        about = [grant for grant in grants.of(self.grants, caller) if grant.covers(target)]
        for grant in about:
            if sum(grant.covers(record.target) for record in owned) < grant.max_links:
                return
        if not about:
            raise NotAuthorized(f"{_who(caller)} has no grant for {target}; root gives them in {PLACE}")
        most = max(about, key=lambda grant: grant.max_links)
        raise LimitExceeded(
            f"{described(owner)} has the {most.max_links} links that the grant of {most.holder} "
            f"({most.place}) allows, so none can be made on {target}; detach one, or have max-links raised"
        )

    def own(self, caller: Caller, owner: Owner) -> None:
        """Make somebody the owner of a new link. `Unsanctioned`."""
        if not owns(caller, owner) and not caller.may(Action.CHANGE_ANY):
            refusal = NotAuthorized(
                f"{_who(caller)} may not make {described(owner)} the owner: only its user or its unit, "
                "unless polkit allows it"
            )
            raise Unsanctioned(Action.CHANGE_ANY, refusal)

    def receive(self, receiver: Caller, owner: Owner, name: str, target: WantedTarget) -> None:
        """Hand a link over: who gets it must have a grant for where it is. `NotAuthorized`.

        Args:
            receiver: the new owner as if it called: with its groups, without a sanction.
        """
        if receiver.uid == 0 and isinstance(owner, User):
            return
        if not any(grant.covers(target) for grant in grants.of(self.grants, receiver)):
            raise NotAuthorized(
                f"{described(owner)} has no grant for {target}, and could not replace the program of link "
                f"{name!r}; give one in {PLACE} first, or let an administrator hand it over with --force"
            )


def owns(caller: Caller, owner: Owner) -> bool:
    """Whether this caller is the owner."""
    return caller.is_one_of(owner)


def described(owner: Owner) -> str:
    """For sentences."""
    return f"unit {owner.name}" if isinstance(owner, Unit) else f"uid {owner.uid}"


def _confinement(
    about: list[Grant], target: WantedTarget, program: WantedProgram, policy: Policy | None
) -> Confinement | None:
    """What the grant says that gives most, of those that allow it; None where none does.

    Where the program has yet to tell the attach type, it is loaded with no more than it may have at any.
    """
    if isinstance(target, CgroupPlace):
        places = (CgroupTarget(path=target.path, attach_type=each) for each in CGROUP_ATTACH_TYPES)
        found = [one for place in places if (one := _confinement(about, place, program, policy))]
        if not found:
            return None
        return Confinement(
            kernel_memory=all(one.kernel_memory for one in found),
            maps=min(one.maps for one in found),
            memory=min(one.memory for one in found),
        )
    fitting = [
        grant.confinement
        for grant in about
        if grant.covers(target) and not grant.lacks(target, program, policy)
    ]
    return max(fitting, key=lambda one: (one.kernel_memory, one.memory, one.maps), default=None)


def _no_grant(
    caller: Caller,
    target: WantedTarget,
    program: WantedProgram,
    policy: Policy | None,
    about: list[Grant],
) -> NotAuthorized:
    if about:
        nearest = about[0]
        # Nothing where the path is granted, but at no attach type the program.
        lacks = nearest.lacks(target, program, policy) or "it at any attach type"
        return NotAuthorized(
            f"{_who(caller)} may not put that on {target}: the grant of {nearest.holder} ({nearest.place}) "
            f"does not allow {lacks}"
        )
    return NotAuthorized(
        f"{_who(caller)} has no grant for {target}; only root and those who have one may attach there: root "
        f"gives them in {PLACE}"
    )


def _who(caller: Caller) -> str:
    """For sentences: grants and owners are users and units, so both are told."""
    return f"uid {caller.uid}" + (f" in {caller.unit}" if caller.unit else "")
