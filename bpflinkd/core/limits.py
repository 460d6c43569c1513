"""How much one user may ask for: a token bucket, and a bounded number of them. Pure: clocks are passed in."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from bpflinkd.core.errors import LimitExceeded

READ: Final = 1
"""Points of a read, and of what is not named in COSTS."""
COSTS: Final = {
    "List": 5,
    "ListForeign": 20,
    "Doctor": 40,
    "Check": 20,
    "Compare": 40,
    "Events": 20,
    "Statistics": 40,
    "Features": 5,
    "GetManagedObjects": 40,
    "Attach": 20,
    "Replace": 20,
    "Rollback": 20,
    "Confirm": 20,
    "History": 5,
    "ReplaceMany": 20,
    "Detach": 20,
    "Transfer": 20,
    "Claim": 20,
    "Adopt": 20,
    "Reload": 40,
    "ProgramFile": 20,
}
"""Points by method: about one for each millisecond of a processor or of the worker, with 1,000 links. For
ReplaceMany of each link: what a user's programs are checked and loaded by costs most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What a bucket holds and gets."""

    points: float
    """A second."""
    burst: float
    """At most this many at once."""


RATE: Final = Rate(points=200, burst=800)
"""Of one user."""


class TokenBucket:
    """Points that come at a steady rate and are kept up to a limit."""

    __slots__ = ("_points", "_rate", "_since")

    def __init__(self, rate: Rate, now: float) -> None:
        """A full bucket. `now` is in seconds, of a clock that never goes back."""
        self._rate = rate
        self._points = rate.burst
        self._since = now

    def take(self, cost: float, now: float) -> float:
        """Take points, all or none.

        Returns:
            0 where they were taken; else the seconds after which they would be there.
        """
        gained = max(0.0, now - self._since) * self._rate.points
        self._points = min(self._rate.burst, self._points + gained)
        self._since = max(self._since, now)
        if cost > self._points:
            return (cost - self._points) / self._rate.points
        self._points -= cost
        return 0.0


class Rates:
    """A bucket for each user; the one that was used longest ago is given up first."""

    def __init__(self, rate: Rate = RATE, most: int = 1024) -> None:
        """`most` is the number of users that are remembered. One that was forgotten has a full bucket."""
        self._rate = rate
        self._most = most
        self._buckets: OrderedDict[int, TokenBucket] = OrderedDict()

    def take(self, uid: int, method: str, now: float, pieces: int = 1) -> None:
        """Pay for a call. `LimitExceeded` says when to come again.

        Args:
            pieces: how many things it asks for at once.
        """
        cost = COSTS.get(method, READ) * pieces
        if cost > self._rate.burst:
            most = int(self._rate.burst // COSTS.get(method, READ))
            raise LimitExceeded(
                f"{method} is asked for {pieces} links at once; uid {uid} may for at most {most}"
            )
        bucket = self._buckets.setdefault(uid, TokenBucket(self._rate, now))
        self._buckets.move_to_end(uid)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        seconds = bucket.take(cost, now)
        if seconds:
            raise LimitExceeded(
                f"uid {uid} calls too often: {method} can be called again in {seconds:.1f} s; read all links "
                "once with GetManagedObjects and follow the signals, instead of asking again"
            )


class Shares:
    """How many of something each user has under way."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def begin(self, uid: int, most: int) -> None:
        """One more. `LimitExceeded` where there are `most`."""
        count = self._counts.get(uid, 0)
        if count >= most:
            raise LimitExceeded(
                f"uid {uid} waits for the answers to {count} calls, as many as it may; wait for one of them"
            )
        self._counts[uid] = count + 1

    def end(self, uid: int) -> None:
        """One less; each `begin` has one `end`."""
        self._counts[uid] -= 1
        if not self._counts[uid]:
            del self._counts[uid]
