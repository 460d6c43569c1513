"""Every refusal and failure that a caller can meet. The class name is the D-Bus error name.

A message is a sentence that says what was wrong, where, and what to do next.
"""

from typing import Final

ERROR_PREFIX: Final = "org.bpflinkd1.Error."


class BpflinkdError(Exception):
    """Base of all: `str(error)` is the sentence."""

    def __init__(self, sentence: str, *, log: str = "") -> None:
        super().__init__(sentence)
        self.log: str = log
        """The verifier's or the loader's log, whole; empty where none spoke."""

    @property
    def dbus_name(self) -> str:
        return ERROR_PREFIX + type(self).__name__

    @property
    def dbus_message(self) -> str:
        """The sentence, then, after an empty line, the log where there is one."""
        return f"{self}\n\n{self.log}" if self.log else str(self)


class NotAuthorized(BpflinkdError):
    """The caller may not do this at all."""


class NotOwner(BpflinkdError):
    """Only the owner of a link, or an administrator, may change it."""


class LimitExceeded(BpflinkdError):
    """More than one caller may have or ask for; wait, give something up, or have the limit raised."""


class NoSuchLink(BpflinkdError):
    """No link has this name."""


class NameTaken(BpflinkdError):
    """Another link has this name, or its pins' directory is in use."""


class BadName(BpflinkdError):
    """A link name is empty, too long or holds characters that are not allowed."""


class BadTarget(BpflinkdError):
    """The target cannot be understood, or cannot exist."""


class BadProgram(BpflinkdError):
    """The program cannot be found, opened, parsed or loaded."""


class BadOption(BpflinkdError):
    """An option is unknown, of the wrong type or out of range."""


class StaleGeneration(BpflinkdError):
    """The link is no longer at the generation that the caller expects."""


class WrongProgramType(BpflinkdError):
    """The program's type or expected_attach_type does not fit the target."""


class IncompatibleMaps(BpflinkdError):
    """What the running program keeps in maps cannot be carried over to the new one."""


class NoSuchGeneration(BpflinkdError):
    """A generation of a link is not kept, or never was."""


class NotInTrial(BpflinkdError):
    """A link runs no program that waits for confirmation, or not any more."""


class InTrial(BpflinkdError):
    """A link runs a program that waits for confirmation: that comes first."""


class VerifierRejected(BpflinkdError):
    """The kernel's verifier refused the program; `log` is all it said."""


class HookBusy(BpflinkdError):
    """A program we did not attach holds the hook. We never evict it unasked."""


class HookGone(BpflinkdError):
    """The interface, cgroup or kernel function is not there, or not there any more."""


class NotSupported(BpflinkdError):
    """This kernel, driver or release cannot do it."""


class StorageFailed(BpflinkdError):
    """The state could not be written; what was asked has been undone."""


class KernelRefused(BpflinkdError):
    """The kernel said no for a reason that no other name here fits; the errno is in the sentence."""


class Internal(BpflinkdError):
    """A fault of ours. The journal has the details; nothing was recorded as done."""


ALL_ERRORS: Final = (
    NotAuthorized,
    NotOwner,
    LimitExceeded,
    NoSuchLink,
    NameTaken,
    BadName,
    BadTarget,
    BadProgram,
    BadOption,
    StaleGeneration,
    WrongProgramType,
    IncompatibleMaps,
    NoSuchGeneration,
    NotInTrial,
    InTrial,
    VerifierRejected,
    HookBusy,
    HookGone,
    NotSupported,
    StorageFailed,
    KernelRefused,
    Internal,
)
"""The closed list: a test freezes it, documentation and clients rely on it."""
