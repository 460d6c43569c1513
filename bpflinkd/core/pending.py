"""A program that a link waits for: another process compiles or loads it, and a thread waits for that."""

from collections.abc import Callable
from dataclasses import dataclass

from bpflinkd.core.checks import Checked
from bpflinkd.core.errors import BpflinkdError
from bpflinkd.core.ports import Program
from bpflinkd.core.sources import ObjectImage, SourceText


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """What to compile, and what to do with it then, on the worker thread."""

    source: SourceText | ObjectImage
    checked: Checked
    compiled: Callable[[Program], None]
    """Takes over the program. `BpflinkdError` where it cannot be put in place."""
    failed: Callable[[BpflinkdError], None]
