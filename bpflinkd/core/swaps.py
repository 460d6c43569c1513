"""Swaps that come to pass together: what is asked for, and what came of it."""

from dataclasses import dataclass
from typing import Final, NamedTuple

from bpflinkd.core.callers import Caller
from bpflinkd.core.errors import BadOption, BpflinkdError
from bpflinkd.core.requests import ReplaceRequest, RollbackRequest

MOST: Final = 4096
"""Links that can be swapped together."""
_FOLLOWS: Final = "; its log follows"
LONGEST_PLACE: Final = 200
"""Characters of a place that is named in refusals."""


@dataclass(frozen=True, slots=True)
class Swap:
    """One of them."""

    request: ReplaceRequest | RollbackRequest
    where: str = ""
    """Where the caller has it from, such as a file and a line: refusals begin with it."""

    def blame(self, error: BpflinkdError) -> BpflinkdError:
        """The same refusal, which names the link, and says that no other was changed either."""
        sentence, name = str(error), self.request.name
        place = f"{self.where}: " if self.where else ""
        about = "" if repr(name) in sentence else f"link {name!r}: "
        follows = _FOLLOWS if sentence.endswith(_FOLLOWS) else ""
        what = sentence.removesuffix(_FOLLOWS)
        return type(error)(f"{place}{about}{what}; no link was changed{follows}", log=error.log)


@dataclass(frozen=True, slots=True)
class ReplaceManyRequest:
    """Swap the programs of several links, all or none."""

    caller: Caller
    swaps: tuple[Swap, ...]
    dry_run: bool = False
    """Load and check everything, and change nothing."""


class Swapped(NamedTuple):
    """What came of it."""

    generations: tuple[tuple[str, int], ...]
    """The new generation of each link by name, in the order in which they were asked for."""
    skew_ns: int
    """Nanoseconds from the end of the first swap to the end of the last; 0 for a dry run."""


def check_names(swaps: tuple[Swap, ...]) -> None:
    """Refuse none, too many, and a link that is named twice. `BadOption`."""
    if not 0 < len(swaps) <= MOST:
        raise BadOption(f"{len(swaps)} links cannot be swapped together; name 1 to {MOST}")
    seen: dict[str, Swap] = {}
    for swap in swaps:
        before = seen.setdefault(swap.request.name, swap)
        if before is not swap:
            also = f", before at {before.where}" if before.where else ""
            name = swap.request.name
            raise swap.blame(BadOption(f"link {name!r} is named twice{also}; leave one out"))


def place(text: str) -> str:
    """Where a caller has a swap from, or `BadOption`."""
    if len(text) > LONGEST_PLACE or not text.isprintable():
        raise BadOption(
            f"'where' must be at most {LONGEST_PLACE} characters that can be printed, such as a file "
            "and a line"
        )
    return text
