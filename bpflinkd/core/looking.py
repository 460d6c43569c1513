"""The port behind which programs are looked at and tried before they are attached, with its values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from bpflinkd.core.attach_types import ProgramType
from bpflinkd.core.map_shapes import MapUse
from bpflinkd.core.model import Confinement
from bpflinkd.core.sources import Source, WantedProgram
from bpflinkd.core.targets import IfIndex, Target, WantedTarget
from bpflinkd.core.testruns import Comparison, TestedPacket

if TYPE_CHECKING:
    from bpflinkd.core.ports import Program


class Examined(NamedTuple):
    """A program that was loaded to be looked at."""

    program: "Program"
    """The receiver's to close."""
    log: str
    """The verifier's numbers, or all it wrote, shortened in the middle; empty where it wrote nothing."""
    translated: int
    """Bytes of instructions after the verifier."""
    jited: int
    """Bytes of machine code."""
    verified: int
    """Instructions that the verifier looked at, on all paths."""
    memory: int
    """Bytes that the kernel counts for it, without its maps."""
    maps: Sequence[MapUse]
    tested: Sequence[TestedPacket] = ()
    """Packets that we made up, with the program's fresh maps."""
    not_tested: str = ""
    """Why there was no test run, as a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two programs that are to be compared: the one that a link runs, and a new one."""

    target: Target
    program_type: ProgramType
    live: "Program"
    """The one that runs. It is read from, never run."""
    source: Source
    image: bytes | None
    """What it was loaded from."""
    confinement: Confinement | None
    """How it was loaded."""
    new: WantedProgram
    confined: Confinement | None
    """How the new one is loaded."""
    check_type: Callable[["Program"], object]
    """Refuses a new program that does not fit the link."""
    ifindex: IfIndex
    """For XDP, the interface that packets seem to come from; 0 where there is none."""


class Examiner(Protocol):
    """Loads programs only to look at them. For any thread: it takes as long as a load, or a minute."""

    def examine(
        self,
        wanted: WantedProgram,
        target: WantedTarget,
        *,
        given: bool,
        confined: Confinement | None,
        ifindex: int,
        whole_log: bool,
    ) -> Examined:
        """Load a program and see what it is. Arguments and errors are those of `Kernel.open_program`.

        Args:
            ifindex: the interface that packets of test runs seem to come from; 0 for `lo`.
            whole_log: also what the verifier writes on each instruction.
        """

    def maps(self, program: "Program") -> Sequence[MapUse]:
        """The maps that a loaded program uses."""

    def compare(self, pair: Pair, packets_fd: int, most: int) -> Comparison:
        """Run packets through both programs, in order, each with copies of the live maps.

        Args:
            packets_fd: a sealed memfd; see `testruns.packets`.
            most: differences that are told one by one.

        Raises:
            BadOption: the packets cannot be read, or none can be tried.
            LimitExceeded: it takes too long, or the maps hold too much.
            BadProgram, VerifierRejected, WrongProgramType: as for a replace; or the running program cannot
                be loaded once more.
        """
