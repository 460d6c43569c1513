"""C source that a link waits for: compiling takes seconds, so another thread does it."""

from collections.abc import Callable
from dataclasses import dataclass

from bpflinkd.core.errors import BpflinkdError
from bpflinkd.core.ports import Program
from bpflinkd.core.sources import SourceText
from bpflinkd.core.targets import WantedTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """What to compile, and what to do with it then, on the worker thread."""

    source: SourceText
    target: WantedTarget
    compiled: Callable[[Program], None]
    """Takes over the program. `BpflinkdError` where it cannot be put in place."""
    failed: Callable[[BpflinkdError], None]
