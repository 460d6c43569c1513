"""What one user may ask of the main loop and of the worker. See docs/limits.md."""

import time
from collections.abc import Callable
from typing import Final, TypeAlias

from bpflinkd.core.callers import Caller
from bpflinkd.core.errors import BpflinkdError, NotAuthorized
from bpflinkd.core.limits import Rates, Shares
from bpflinkd.dbus import contract
from bpflinkd.dbus.wrapper import Call

MAX_CHANGES: Final = 8
"""Calls of one user that wait for the worker."""
MAX_CHANGES_ROOT: Final = 1000
_ANSWERED_AT_ONCE: Final = ("List",)
"""Methods of the Manager that the main loop answers; all others go to the worker."""

Identify: TypeAlias = Callable[[str, Callable[[Caller | None], None]], None]
"""Finds the caller behind a unique name, and goes on with it, or with None."""


class Limits:
    """Kept by user, so that many connections of one user share them. On the main loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rates = Rates()
        self._changes = Shares()

    def admit(self, caller: Caller, method: str, pieces: int = 1) -> None:
        """Count a call before anything is done for it. `LimitExceeded`. Root is not counted.

        Args:
            pieces: how many things it asks for at once.
        """
        if caller.uid != 0:
            self._rates.take(caller.uid, method, self._clock(), pieces)

    def begin(self, caller: Caller) -> Callable[[], None]:
        """Count a call that will wait for the worker. `LimitExceeded`.

        Returns:
            What ends it, to be called exactly once: see `Call.at_end`.
        """
        uid = caller.uid
        self._changes.begin(uid, MAX_CHANGES if uid != 0 else MAX_CHANGES_ROOT)
        return lambda: self._changes.end(uid)


class Admission:
    """Finds out who calls, and lets the call go on within the limits. An `Admit` of the wrapper."""

    def __init__(self, identify: Identify, limits: Limits) -> None:
        self._identify = identify
        self._limits = limits

    def __call__(self, call: Call, then: Callable[[], None]) -> None:
        """Go on with a call whose `caller` is known then, or answer it with a refusal."""

        def told(caller: Caller | None) -> None:
            try:
                if caller is None:
                    raise NotAuthorized("the bus does not say who you are")
                self._limits.admit(caller, call.method, call.pieces)
                if call.interface == contract.MANAGER and call.method not in _ANSWERED_AT_ONCE:
                    call.at_end(self._limits.begin(caller))
            except BpflinkdError as error:
                call.fail(error)
                return
            call.caller = caller
            then()

        self._identify(call.sender, told)
