"""The client library: what `bpflinkctl` does, for programs in Python.

    from bpflinkd.client import Client, Object
    with Client() as bpflinkd:
        bpflinkd.attach("edge", "xdp:eth0", Object("filter.o"))
        bpflinkd.replace("edge", Object("filter-v2.o"))

Every method waits for its answer; every failure is a `ClientError`. What is exported here stays.
"""

from typing import TYPE_CHECKING, Any

from bpflinkd.client.attachments import Attachment, KernelLink, NetlinkXdp, PinnedLink
from bpflinkd.client.errors import (
    BadInput,
    ClientError,
    HookBusy,
    HookGone,
    LimitExceeded,
    NameTaken,
    NoDaemon,
    NoSuchLink,
    NotAllowed,
    NotOwner,
    Released,
    StaleGeneration,
    VerifierRejected,
)
from bpflinkd.client.owners import Owner, Unit, User
from bpflinkd.client.programs import Builtin, CSource, Object, Pinned, Program, ProgramFd, ProgramId
from bpflinkd.client.targets import CgroupTarget, KprobeTarget, Target, XdpTarget
from bpflinkd.client.values import (
    Checked,
    Compared,
    Event,
    LinkProperties,
    LinkStatistics,
    ManagerProperties,
    ProgramFile,
    Recorded,
    Refusal,
    Reloaded,
    Row,
    Statistics,
)

if TYPE_CHECKING:
    from bpflinkd.client.client import Client
    from bpflinkd.client.swaps import Swap, Swapped
else:

    def __getattr__(name: str) -> Any:
        # GIO is imported with the client: whoever only parses or catches does without.
        if name == "Client":
            from bpflinkd.client.client import Client  # noqa: PLC0415

            return Client
        if name in ("Swap", "Swapped"):
            from bpflinkd.client import swaps  # noqa: PLC0415

            return getattr(swaps, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Attachment",
    "BadInput",
    "Builtin",
    "CSource",
    "CgroupTarget",
    "Checked",
    "Client",
    "ClientError",
    "Compared",
    "Event",
    "HookBusy",
    "HookGone",
    "KernelLink",
    "KprobeTarget",
    "LimitExceeded",
    "LinkProperties",
    "LinkStatistics",
    "ManagerProperties",
    "NameTaken",
    "NetlinkXdp",
    "NoDaemon",
    "NoSuchLink",
    "NotAllowed",
    "NotOwner",
    "Object",
    "Owner",
    "Pinned",
    "PinnedLink",
    "Program",
    "ProgramFd",
    "ProgramFile",
    "ProgramId",
    "Recorded",
    "Refusal",
    "Released",
    "Reloaded",
    "Row",
    "StaleGeneration",
    "Statistics",
    "Swap",
    "Swapped",
    "Target",
    "Unit",
    "User",
    "VerifierRejected",
    "XdpTarget",
]
