"""Every failure that a client can meet. Imports nothing of GIO.

The daemon's errors have the classes that a program would catch by; `ClientError.name` tells all of them
apart.
"""

from typing import Final

from bpflinkd.core.errors import ERROR_PREFIX

_GONE: Final = ("ServiceUnknown", "NameHasNoOwner", "Disconnected", "TimedOut")
_NOT_ALLOWED: Final = ("NotAuthorized", "AccessDenied", "AuthFailed")


class ClientError(Exception):
    """A call was refused or failed. `str(error)` is a sentence that a person can act on."""

    def __init__(self, sentence: str, *, name: str = "", log: str = "") -> None:
        super().__init__(sentence)
        self.name = name or type(self).__name__
        """The D-Bus error's name without its prefix, such as `WrongProgramType`; or one of `BadInput`,
        `Released`, `NoBus`, `NoDaemon`, `DaemonGone`, `AccessDenied`, `Timeout` and `CallFailed`."""
        self.sentence = sentence
        self.log = log
        """The verifier's log, whole; empty where it did not speak."""


class BadInput(ClientError):
    """What was given cannot be sent: a file, a descriptor, a target or an owner. Nothing was asked."""


class NoDaemon(ClientError):
    """There is no bus, or no bpflinkd on it (any more). What was asked may be done all the same."""


class NotAllowed(ClientError):
    """The daemon or the bus does not let this user do it."""


class NotOwner(NotAllowed):
    """The link is another's. An administrator may change it by force."""


class NoSuchLink(ClientError):
    """No link has this name."""


class Released(ClientError):
    """Another connection holds the link now, or none does."""

    def __init__(self, sentence: str, holder: str) -> None:
        super().__init__(sentence)
        self.holder = holder
        """Its unique name; empty for nobody."""


class NameTaken(ClientError):
    """Another link has this name."""


class StaleGeneration(ClientError):
    """The link is not at the generation that was expected."""


class IncompatibleMaps(ClientError):
    """A map of the running program cannot be carried over."""


class NoSuchGeneration(ClientError):
    """A generation of the link is not kept, or never was."""


class NotInTrial(ClientError):
    """The link runs no generation that waits for confirmation, or not any more."""


class InTrial(ClientError):
    """The link runs a generation that waits for confirmation."""


class HookBusy(ClientError):
    """A program that is not bpflinkd's holds the hook."""


class HookGone(ClientError):
    """The interface, cgroup or kernel function is not there."""


class VerifierRejected(ClientError):
    """The kernel's verifier refused the program; `log` is all it said."""


class LimitExceeded(ClientError):
    """More than this user may have or ask for."""


_CLASSES: Final = {
    kind.__name__: kind
    for kind in (
        NotOwner,
        NoSuchLink,
        NameTaken,
        StaleGeneration,
        IncompatibleMaps,
        NoSuchGeneration,
        NotInTrial,
        InTrial,
        HookBusy,
        HookGone,
        VerifierRejected,
        LimitExceeded,
    )
}


def refusal(name: str, message: str) -> ClientError:
    """What an error reply means to a client. `name` is the D-Bus error's, whole."""
    short = name.rpartition(".")[2]
    if name.startswith(ERROR_PREFIX):
        sentence, _, log = message.partition("\n\n")
        kind = NotAllowed if short in _NOT_ALLOWED else _CLASSES.get(short, ClientError)
        return kind(sentence, name=short, log=log)
    if short in _NOT_ALLOWED:
        return NotAllowed(
            f"the bus does not let you ask this of bpflinkd; try as root ({message})", name=short
        )
    if short == "NoReply":
        return NoDaemon(
            "bpflinkd went away before it answered; it may have done what was asked", name="DaemonGone"
        )
    # An activation that failed has names of the bus's (Spawn.*) or of systemd's.
    if short in _GONE or ".Spawn." in name or ".systemd1." in name:
        return NoDaemon(f"bpflinkd is not running on this bus: {message}")
    return ClientError(message or f"the call failed: {name}", name=short)
