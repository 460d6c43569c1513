"""Programs that are looked at and tried, and attached nowhere: for Check and Compare. For any thread."""

import ctypes
import time
from pathlib import Path
from typing import Final, cast

from bpflinkd.core import testruns
from bpflinkd.core.attach_types import ProgramType
from bpflinkd.core.errors import BadOption, BadProgram, BpflinkdError, LimitExceeded
from bpflinkd.core.looking import Examined, Pair
from bpflinkd.core.map_shapes import MapUse
from bpflinkd.core.model import Confinement
from bpflinkd.core.ports import Program
from bpflinkd.core.sources import PinnedProgram, ProgramById, ProgramFd, WantedProgram
from bpflinkd.core.targets import WantedTarget
from bpflinkd.core.testruns import Comparison, Tally
from bpflinkd.kernel import copies, files, info, libbpf_batches, loading, testrun
from bpflinkd.kernel.helper import Limits
from bpflinkd.kernel.opening import ProgramOpener
from bpflinkd.kernel.program import HeldProgram
from bpflinkd.kernel.testrun import Bench

MOST_SECONDS: Final = 60.0
"""For all test runs of one comparison."""


class ProgramExaminer:
    """Loads programs to be looked at."""

    def __init__(self, limits: Limits, compiler_socket: Path | None) -> None:
        """Arguments are those of `ProgramOpener`."""
        self._told = ProgramOpener(limits, compiler_socket, log_level=1)
        self._whole = ProgramOpener(limits, compiler_socket, log_level=2)
        self._plain = ProgramOpener(limits, compiler_socket)

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
        """See `core.looking.Examiner`."""
        program = self._told.open(wanted, target, given=given, confined=confined)
        try:
            if whole_log and program.log:
                self._write_all(program, wanted, target, given=given, confined=confined)
            size = info.program_size(program.fd)
            found = Examined(
                program=program,
                log=loading.shortened(program.log),
                translated=size.translated,
                jited=size.jited,
                verified=size.verified,
                memory=size.memory,
                maps=maps_of(program),
            )
            lacks = _untestable(wanted, program)
            if lacks:
                return found._replace(not_tested=lacks)
            try:
                taken = ifindex if ifindex and testrun.takes_interface(ifindex) else 0
                return found._replace(tested=testrun.sampled(program.fd, program.info.type, taken))
            except OSError as error:
                return found._replace(not_tested=f"the kernel makes no test run of it: {error.strerror}")
        except BaseException:
            program.close()
            raise

    def _write_all(
        self,
        program: HeldProgram,
        wanted: WantedProgram,
        target: WantedTarget,
        *,
        given: bool,
        confined: Confinement | None,
    ) -> None:
        """Load it once more for the log of every instruction: that it may be too long is no refusal."""
        try:
            again = self._whole.open(wanted, target, given=given, confined=confined)
        except BpflinkdError:
            program.log += "\n[the rest is longer than the kernel writes]"
        else:
            program.log = again.log
            again.close()

    def compare(self, pair: Pair, packets_fd: int, most: int) -> Comparison:
        """See `core.looking.Examiner`."""
        data = _packets(packets_fd)
        count = testruns.count(data)
        lacks = _untestable(pair.new, None)
        if lacks:
            raise BadProgram(f"the new program cannot be compared: {lacks}")
        old = self._again(pair)
        try:
            new = self._plain.open(pair.new, pair.target, confined=pair.confined)
            try:
                return _compared(pair, old, new, data, count, most)
            finally:
                new.close()
        finally:
            old.close()

    def maps(self, program: Program) -> tuple[MapUse, ...]:
        """See `core.looking.Examiner`."""
        return maps_of(cast(HeldProgram, program))

    def _again(self, pair: Pair) -> HeldProgram:
        """The running program, loaded once more with maps of its own."""
        live = pair.live.info
        try:
            old = self._plain.reload(pair.source, pair.image, pair.target, pair.confinement)
        except BpflinkdError as error:
            sentence = f"the running program cannot be loaded once more to be compared with: {error}"
            raise type(error)(sentence, log=error.log) from None
        if old.info.tag != live.tag:
            old.close()
            raise BadProgram(
                f"the running program {live} cannot be loaded once more to be compared with: what is kept of "
                f"it is loaded as other instructions now, tag {old.info.tag}"
            )
        return old


def maps_of(program: HeldProgram) -> tuple[MapUse, ...]:
    """The maps that a program uses, in that order. Names are whole where its file told them."""
    whole = {info.map_info(fd).id: name for name, fd in program.map_fds.items()}
    found = []
    with copies.opened_maps(program.fd) as maps:
        for fd, shape in maps.values():
            found.append(
                MapUse(
                    name=whole.get(shape.id, shape.name),
                    type=shape.type,
                    type_name=libbpf_batches.map_type_name(shape.type),
                    key_size=shape.key_size,
                    value_size=shape.value_size,
                    max_entries=shape.max_entries,
                    flags=shape.flags,
                    memory=info.map_memory(fd),
                )
            )
    return tuple(found)


def _untestable(wanted: WantedProgram, program: HeldProgram | None) -> str:
    """Why there is no test run, as a sentence; empty where there is one."""
    if isinstance(wanted, PinnedProgram | ProgramById | ProgramFd):
        return (
            "it is loaded already, and a test run would change what its maps hold; give the object or source "
            "that it comes from"
        )
    if program is not None and program.info.type not in testruns.TESTABLE:
        return "test runs are for programs of the types xdp and cgroup_skb"
    return ""


def _packets(fd: int) -> bytes:
    """What a caller sent. It is a sealed memfd whoever sends it: the method asks for that."""
    try:
        return files.read_sealed(fd, "capture", testruns.MAX_BYTES)
    except BadProgram as error:
        raise BadOption(str(error)) from None


def _compared(
    pair: Pair, old: HeldProgram, new: HeldProgram, data: bytes, count: int, most: int
) -> Comparison:
    pair.check_type(new)
    contents = copies.read(cast(HeldProgram, pair.live).fd)
    filled, fresh = copies.fill(old.fd, contents, "running", sections=True)
    also, more = copies.fill(new.fd, contents, "new", sections=False)
    contents.clear()
    tally = Tally(most)
    ifindex = pair.ifindex if pair.ifindex and testrun.takes_interface(pair.ifindex) else 0
    benches = Bench(old.fd, ifindex=ifindex), Bench(new.fd, ifindex=ifindex)
    _run(pair.program_type, benches, data, tally)
    if not tally.verdicts:
        reasons = "; ".join(f"{number} are {why}" for why, number in tally.not_run.items())
        raise BadOption(f"none of the {count} packets could be tried: {reasons}")
    return Comparison(
        packets=count,
        tally=tally,
        copied=tuple(dict.fromkeys((*filled, *also))),
        fresh=(*fresh, *more),
    )


def _run(program_type: ProgramType, benches: tuple[Bench, Bench], data: bytes, tally: Tally) -> None:
    """Run both on every packet, in order."""
    old, new = benches
    # Not copied: the bytes stay where they are as long as somebody has them.
    start = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
    until = time.monotonic() + MOST_SECONDS
    compares_packets = program_type == ProgramType.XDP
    for index, packet in enumerate(testruns.packets(data)):
        if time.monotonic() > until:
            raise LimitExceeded(
                f"the comparison took more than {MOST_SECONDS:g} s, and was at packet {index}; "
                "give fewer packets"
            )
        why = testruns.why_never_run(program_type, data, packet)
        if why:
            tally.not_run[why] += 1
            continue
        address = start + packet.offset
        codes = old.run(address, packet.size), new.run(address, packet.size)
        if any(codes):
            tally.not_run[_reason(codes, packet.size)] += 1
            continue
        before, after = old.verdict, new.verdict
        altered = (
            compares_packets
            and before == after
            and testruns.goes_on(program_type, before)
            and (old.size_out != new.size_out or old.packet_out != new.packet_out)
        )
        tally.add(index, before, after, altered=altered)


def _reason(codes: tuple[int, int], size: int) -> str:
    why = testrun.reason(next(filter(None, codes)), size)
    if all(codes):
        return why
    return f"{why}, for the {'running' if codes[0] else 'new'} program only"
