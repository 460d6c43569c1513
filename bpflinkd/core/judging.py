"""The automatic judge of a trial: conditions on counters, as people write them. Pure.

map:drops[0] < 10/s        a counter in an array map of the program on trial
interface:rx_dropped <= 5  one of the interface that it is on
"""

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from bpflinkd.core.errors import BadOption

_CONDITION: Final = re.compile(
    r"\s*(?:map:(?P<map>[^\[\]<>=\s]{1,80})(?:\[(?P<index>\d{1,10})\])?|interface:(?P<field>\w{1,40}))"
    r"\s*(?P<operator><=|>=|<|>)\s*(?P<bound>\d{1,19}(?:\.\d{1,9})?)\s*(?P<rate>/s)?\s*",
    re.ASCII,
)
_U32: Final = 2**32
MOST: Final = 16
"""Conditions of one trial."""
STATISTICS: Final = (
    *("rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "rx_errors", "tx_errors", "rx_dropped"),
    *("tx_dropped", "multicast", "collisions", "rx_length_errors", "rx_over_errors", "rx_crc_errors"),
    *("rx_frame_errors", "rx_fifo_errors", "rx_missed_errors", "tx_aborted_errors", "tx_carrier_errors"),
    *("tx_fifo_errors", "tx_heartbeat_errors", "tx_window_errors", "rx_compressed", "tx_compressed"),
    "rx_nohandler",
)
"""What an interface counts: `struct rtnl_link_stats64`, in its order."""
_SECOND: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class MapCounter:
    """A value of an array map; of a per-CPU array the sum."""

    map: str
    index: int

    def __str__(self) -> str:
        return f"map:{self.map}[{self.index}]"


@dataclass(frozen=True, slots=True)
class InterfaceCounter:
    """One of `STATISTICS`."""

    field: str

    def __str__(self) -> str:
        return f"interface:{self.field}"


Counter: TypeAlias = MapCounter | InterfaceCounter


@dataclass(frozen=True, slots=True)
class Condition:
    """By how much a counter may, or must, grow."""

    counter: Counter
    operator: str
    bound: float
    per_second: bool

    def __str__(self) -> str:
        return f"{self.counter} {self.operator} {self.bound:.15g}{'/s' if self.per_second else ''}"

    @property
    def is_limit(self) -> bool:
        """An upper bound, which can be broken before the time is over."""
        return self.operator.startswith("<")

    def measured(self, grown: int, micros: int) -> float:
        """What is compared with the bound: the growth, or the growth a second."""
        return grown * _SECOND / max(1, micros) if self.per_second else grown

    def broken(self, grown: int, micros: int) -> str:
        """What is wrong, in words, where a counter grew by so much in so many microseconds; else empty."""
        value = self.measured(grown, micros)
        holds = {
            "<": value < self.bound,
            "<=": value <= self.bound,
            ">": value > self.bound,
            ">=": value >= self.bound,
        }
        if holds[self.operator]:
            return ""
        return f"{self.counter} grew by {value:.6g}{'/s' if self.per_second else ''}, and {self} was to hold"


def parse(text: str) -> Condition:
    """A condition from its text. `BadOption`."""
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise BadOption(
            f"{text[:80]!r} is not a condition; write it as 'map:drops[0] < 10/s' or "
            "'interface:rx_dropped <= 5', with < <= > or >="
        )
    field, name = found["field"], found["map"]
    counter: Counter
    if name is not None:
        index = int(found["index"] or 0)
        if index >= _U32:
            raise BadOption(f"{text[:80]!r}: the index {index} is larger than that of any map")
        counter = MapCounter(name, index)
    elif field in STATISTICS:
        counter = InterfaceCounter(field)
    else:
        raise BadOption(f"an interface does not count {field!r}; it counts: {', '.join(STATISTICS)}")
    return Condition(counter, found["operator"], float(found["bound"]), bool(found["rate"]))


def parse_all(texts: list[str]) -> tuple[Condition, ...]:
    """Conditions from their texts. `BadOption`."""
    if len(texts) > MOST:
        raise BadOption(f"a trial has {MOST} conditions at most, not {len(texts)}")
    return tuple(map(parse, texts))
