"""An owner-to-be as if it called: who gets a link must have a grant for it."""

import os
import pwd
from typing import Final

from bpflinkd.core.callers import Caller, Owner, User

_NO_UID: Final = 2**32 - 1
"""What no process can have: a unit is no user."""


def receiver(owner: Owner) -> Caller:
    """With all groups of the user, as a login would have them."""
    if not isinstance(owner, User):
        return Caller(uid=_NO_UID, unit=owner.name)
    try:
        account = pwd.getpwuid(owner.uid)
    except KeyError:
        return Caller(uid=owner.uid)
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    return Caller(uid=owner.uid, gids=frozenset(groups))
