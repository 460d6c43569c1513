"""BPF_PROG_TEST_RUN: a program run on a packet, attached nowhere. Source: net/bpf/test_run.c.

What it does to its maps it does. Where it would send a packet elsewhere it only says so. An XDP program sees
the interface that is named; one of a cgroup sees `lo`, and a socket that is made up and in no cgroup.
"""

import ctypes
import errno
import os
import statistics
from ctypes import Structure, addressof, byref, c_int, c_size_t, c_uint32, c_void_p
from typing import Final

from bpflinkd.core import attach_types, testruns
from bpflinkd.core.attach_types import ProgramType
from bpflinkd.core.sources import Builtin
from bpflinkd.core.testruns import Sample, TestedPacket
from bpflinkd.kernel import objects
from bpflinkd.kernel.libbpf_calls import check, unchecked

_ROOM: Final = testruns.MAX_PACKET + 8192
"""Bytes that a packet may have when it comes out: a program may make it longer."""
_SAMPLES: Final = 51
"""Runs of which the time is the median."""
_XDP_MD: Final = 24
"""Bytes of `struct xdp_md`."""
_TRIES: Final = 10


class _Opts(Structure):
    """`struct bpf_test_run_opts`."""

    _fields_ = [
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    ]


_test_run: Final = unchecked("bpf_prog_test_run_opts")


class Bench:
    """Runs one program on packets, one after the other. For one thread."""

    def __init__(self, prog_fd: int, *, ifindex: int = 0) -> None:
        """
        Args:
            ifindex: for XDP, where the packets come from; 0 for `lo`.
        """
        self._fd = c_int(prog_fd)
        self._out = ctypes.create_string_buffer(_ROOM)
        self._opts = _Opts(sz=ctypes.sizeof(_Opts), data_out=addressof(self._out), repeat=1)
        self._by_reference = byref(self._opts)
        # struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        self._context = (c_uint32 * 6)(0, 0, 0, ifindex, 0, 0)
        if ifindex:
            self._opts.ctx_in, self._opts.ctx_size_in = addressof(self._context), _XDP_MD

    def run(self, address: int, size: int) -> int:
        """Run once on the packet at an address of memory; returns an errno, or 0 where it ran.

        EINVAL: the packet is too short or too long, or has no whole header of IP for a cgroup's program.
        Then `verdict`, `duration` and `packet_out` tell what came of it.
        """
        opts = self._opts
        opts.data_in, opts.data_size_in, opts.data_size_out = address, size, _ROOM
        self._context[1] = size
        for _ in range(_TRIES):
            result: int = _test_run(self._fd, self._by_reference)
            if result >= 0:
                return 0
            code = ctypes.get_errno() if result == -1 else -result
            if code not in (errno.EINTR, errno.EAGAIN):
                return code
        return code

    @property
    def verdict(self) -> int:
        """What the program returned."""
        return int(self._opts.retval)

    @property
    def duration(self) -> int:
        """Nanoseconds that it took."""
        return int(self._opts.duration)

    @property
    def size_out(self) -> int:
        """Bytes of the packet that comes out."""
        return int(self._opts.data_size_out)

    @property
    def packet_out(self) -> bytes:
        """The packet that comes out."""
        return ctypes.string_at(self._out, self._opts.data_size_out)


def takes_interface(ifindex: int) -> bool:
    """Whether a test run can pretend that packets come from this interface: tried with a program of ours."""
    data = testruns.samples()[0].data
    packet = ctypes.create_string_buffer(data)
    program = objects.load_builtin(Builtin(name="pass"), attach_types.XDP)
    try:
        return Bench(program.fd, ifindex=ifindex).run(addressof(packet), len(data)) == 0
    finally:
        program.close()


def sampled(prog_fd: int, program_type: int, ifindex: int = 0) -> tuple[TestedPacket, ...]:
    """What a program makes of packets that we made up, and how long that takes. OSError: it cannot be tried.

    Each packet is run on several times, so what the program counts it counts as often.
    """
    bench = Bench(prog_fd, ifindex=ifindex if program_type == ProgramType.XDP else 0)
    return tuple(_sampled(bench, sample) for sample in testruns.samples())


def _sampled(bench: Bench, sample: Sample) -> TestedPacket:
    packet = ctypes.create_string_buffer(sample.data)
    times = []
    verdict = 0
    for number in range(_SAMPLES):
        check(-bench.run(addressof(packet), len(sample.data)), "BPF_PROG_TEST_RUN")
        verdict = verdict if number else bench.verdict
        times.append(bench.duration)
    return TestedPacket(sample.what, verdict, int(statistics.median(times)))


def reason(code: int, size: int) -> str:
    """Why the kernel did not run a program on a packet of so many bytes, as the end of a sentence."""
    if code == errno.EINVAL:
        # PAGE_SIZE, less room before and behind it: bpf_test_init().
        long = "longer than this kernel tries" if size > 3000 else "shorter than this kernel tries"
        return long + " (it says EINVAL)"
    return f"refused by the kernel: {os.strerror(code)}"
