"""The Protocols that the edges implement. The core knows the world only through these.

Methods raise `BpflinkdError` with a sentence; nothing else is expected to come out of an edge.
"""

from bpflinkd.core.ports.host import Clock, Nanos, Publish, Sentinel, Ticks
from bpflinkd.core.ports.kernel import Company, FoundLink, Kernel, Link, Program, TakenOver
from bpflinkd.core.ports.pins import Pinned, Pins, PinTrouble, Promised
from bpflinkd.core.ports.store import Store, Stored

__all__ = [
    "Clock",
    "Company",
    "FoundLink",
    "Kernel",
    "Link",
    "Nanos",
    "PinTrouble",
    "Pinned",
    "Pins",
    "Program",
    "Promised",
    "Publish",
    "Sentinel",
    "Store",
    "Stored",
    "TakenOver",
    "Ticks",
]
