"""Objects of callers who are not root: what they may have, and what a hostile one gets."""

import os
import random
import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpflinkd.core import attach_types
from bpflinkd.core.attach_types import AttachType
from bpflinkd.core.errors import (
    BadProgram,
    BpflinkdError,
    Internal,
    LimitExceeded,
    NotSupported,
    VerifierRejected,
    WrongProgramType,
)
from bpflinkd.core.maps import MapShape
from bpflinkd.core.model import Confinement
from bpflinkd.core.sources import ObjectFile, ObjectImage, ProgramFd, StoredObject
from bpflinkd.core.targets import CgroupPlace, CgroupTarget, XdpMode, XdpTarget
from bpflinkd.kernel import archive, helper, info, libbpf_calls, libbpf_maps, libbpf_objects, maps, objects
from bpflinkd.kernel.helper import MAX_LOG, Limits, Spawned
from bpflinkd.kernel.program import HeldProgram
from bpflinkd.kernel.system import LinuxKernel
from tests.lab.compiled import compile_c, program
from tests.lab.leftovers import nothing_left
from tests.lab.world import run
from tests.unit.test_compile import PROLOGUE, listening

CONFINED = Confinement(kernel_memory=False, maps=8, memory=1 << 20)
TRUSTED = Confinement(kernel_memory=True, maps=8, memory=1 << 20)
LIMITS = Limits(seconds=60)
ROOT = Path(__file__).parents[2]
(CONNECT4,) = (a for a in attach_types.CGROUP_ATTACH_TYPES if a.name == "connect4")
(EGRESS,) = (a for a in attach_types.CGROUP_ATTACH_TYPES if a.name == "egress")


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with nothing_left():
        yield


def load(
    data: bytes,
    name: str | None = None,
    attach_type: AttachType | None = attach_types.XDP,
    confined: Confinement = CONFINED,
    *,
    limits: Limits = LIMITS,
) -> HeldProgram:
    return objects.load_confined(data, name, attach_type, confined, limits=limits)


def confined_object() -> bytes:
    return program("confined").read_bytes()


# What may be


@pytest.mark.parametrize(
    ("name", "attach_type", "declared"),
    [
        pytest.param("plain", attach_types.XDP, attach_types.XDP, id="XDP"),
        pytest.param("egress", EGRESS, EGRESS, id="cgroup"),
        pytest.param("egress", None, EGRESS, id="cgroup, its section says which"),
    ],
)
def test_a_program_comes_with_its_maps(
    name: str, attach_type: AttachType | None, declared: AttachType
) -> None:
    held = load(confined_object(), name, attach_type)
    try:
        assert held.info.name == name
        assert held.info.type == declared.program_type
        assert held.declared == declared
        assert held.fits(declared)
        assert isinstance(held.source, StoredObject)
        assert held.image == confined_object()
        assert set(held.maps) == {"values", "unused_slots", "bpflinkd.rodata"}
        values = info.map_info(held.map_fds["values"])
        assert (values.type, values.max_entries) == (libbpf_maps.BPF_MAP_TYPE_ARRAY, 2)
    finally:
        held.close()


def test_an_object_of_one_program_needs_no_name() -> None:
    held = load(program("single").read_bytes())
    assert held.info.name == "only_one"
    held.close()


def test_a_loader_of_systemds_is_asked_at_its_socket() -> None:
    with listening(str(ROOT / "bpflinkd/compiler.py")) as listener:
        held = objects.load_confined(
            confined_object(),
            "plain",
            attach_types.XDP,
            CONFINED,
            limits=LIMITS,
            compiler_socket=listener.place,
        )
        assert held.info.name == "plain"
        held.close()


# Kernel memory


@pytest.mark.parametrize(
    ("name", "attach_type", "error"),
    [
        pytest.param("by_helper", attach_types.XDP, VerifierRejected, id="bpf_probe_read_kernel"),
        pytest.param("by_btf_pointer", CONNECT4, VerifierRejected, id="a pointer to a kernel struct"),
        pytest.param("by_pointer_in_map", attach_types.XDP, VerifierRejected, id="an address told to a map"),
        pytest.param("by_kfunc", attach_types.XDP, BadProgram, id="a kfunc"),
        pytest.param("by_kfunc_in_subprogram", attach_types.XDP, BadProgram, id="a kfunc in a subprogram"),
    ],
)
def test_only_a_grant_of_kernel_memory_lets_it_be_read(
    name: str, attach_type: AttachType, error: type[BpflinkdError]
) -> None:
    with pytest.raises(error):
        load(confined_object(), name, attach_type)
    objects.load(confined_object(), name, attach_type).close()
    load(confined_object(), name, attach_type, TRUSTED).close()


def test_a_kfunc_that_the_kernel_would_take_is_refused_by_name_of_the_grant() -> None:
    with pytest.raises(BadProgram, match=r"a kfunc.*kernel-memory = true"):
        load(confined_object(), "by_kfunc")


def test_a_kfunc_that_libbpf_is_not_told_of_is_found_too(tmp_path: Path) -> None:
    """The instruction is in the object as the kernel takes it: a call of a BTF id, and no relocation."""
    types = run("bpftool", "btf", "dump", "file", "/sys/kernel/btf/vmlinux", "format", "raw")
    found = re.search(r"^\[(\d+)\] FUNC 'bpf_rdonly_cast'", types, re.MULTILINE)
    if found is None:
        pytest.skip("this kernel has no bpf_rdonly_cast()")
    text = f"""
SEC("xdp") __attribute__((naked)) int f(struct xdp_md *ctx)
{{
	asm volatile("r1 = 0\\n r2 = 0\\n .byte 0x85, 0x20, 0, 0\\n .long {found[1]}\\n r0 = 2\\n exit");
}}
"""
    data = compiled(source(text), tmp_path)
    objects.load(data, None, attach_types.XDP).close()
    with pytest.raises(BadProgram, match="a kfunc"):
        load(data)


def test_a_kprobe_needs_the_grant() -> None:
    with pytest.raises((NotSupported, VerifierRejected)):
        load(confined_object(), "traced", attach_types.KPROBE)
    try:
        objects.load(confined_object(), "traced", attach_types.KPROBE).close()
    except BpflinkdError as error:
        pytest.skip(f"this kernel has no kprobes: {error}")
    load(confined_object(), "traced", attach_types.KPROBE, TRUSTED).close()


# Limits


def test_too_many_maps_are_refused() -> None:
    two = Confinement(kernel_memory=False, maps=2, memory=1 << 20)
    with pytest.raises(LimitExceeded, match="more than 2 maps"):
        load(confined_object(), "plain", confined=two)
    load(
        confined_object(), "plain", confined=Confinement(kernel_memory=False, maps=3, memory=1 << 20)
    ).close()


def source(text: str, *, maps: str = "") -> str:
    return f"""
#include <linux/bpf.h>
#define SEC(name) __attribute__((section(name), used))
static void *(*lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
{maps}
{text or 'SEC("xdp") int only(struct xdp_md *ctx) { return XDP_PASS; }'}
char _license[] SEC("license") = "Dual BSD/GPL";
"""


def a_map(name: str, kind: str, key: int, value: int, entries: int, more: str = "") -> str:
    sizes = f"int (*key_size)[{key}]; int (*value_size)[{value}];" if key or value else ""
    return (
        f"struct {{ int (*type)[BPF_MAP_TYPE_{kind}]; {sizes} int (*max_entries)[{entries}]; {more} }} "
        f'{name} SEC(".maps");'
    )


def compiled(text: str, place: Path) -> bytes:
    (place / "given.bpf.c").write_text(text)
    return compile_c(place / "given.bpf.c", place / "given.o").read_bytes()


INNER = (
    "struct inner { int (*type)[BPF_MAP_TYPE_ARRAY]; int (*key_size)[4]; int (*value_size)[4]; "
    "int (*max_entries)[1]; };"
)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        pytest.param(
            a_map("big", "ARRAY", 4, 8, 1 << 20), LimitExceeded, "'big' takes about 83", id="a large array"
        ),
        pytest.param(
            a_map("big", "HASH", 4, 4, 0x7FFFFFFF), LimitExceeded, "'big' takes", id="two thousand million"
        ),
        pytest.param(
            a_map("big", "HASH", 4, 4, 0x7FFFFFFF, "int (*map_flags)[1];"),
            LimitExceeded,
            "'big' takes",
            id="entries that are not there yet",
        ),
        pytest.param(
            a_map("big", "RINGBUF", 0, 0, 1 << 30), LimitExceeded, "'big' takes", id="a large ring buffer"
        ),
        pytest.param(
            a_map("big", "CPUMAP", 4, 4, 64), LimitExceeded, "'big' takes", id="queues of many CPUs"
        ),
        pytest.param(
            a_map("a", "ARRAY", 4, 8, 1 << 16) + a_map("b", "ARRAY", 4, 8, 1 << 16),
            LimitExceeded,
            r"which makes 10\d+ for",
            id="two that are large together",
        ),
        pytest.param(
            'static volatile char big[2 << 20] SEC(".bss");',
            LimitExceeded,
            r"'bpflinkd\.bss' takes about 2101248",
            id="bss",
        ),
        pytest.param(
            a_map("m", "SK_STORAGE", 4, 8, 0, "int (*map_flags)[1];"),
            BadProgram,
            "'m' is of type 24",
            id="storage of sockets",
        ),
        pytest.param(
            INNER + a_map("m", "ARRAY_OF_MAPS", 4, 4, 1, "struct inner *values[];"),
            BadProgram,
            "'m' is of type 12",
            id="a map of maps",
        ),
        pytest.param(
            a_map("m", "ARRAY", 4, 4, 1, "int (*pinning)[1];"),
            BadProgram,
            "'m' asks to be pinned",
            id="a pin",
        ),
        pytest.param(
            "".join(a_map(f"m{i}", "ARRAY", 4, 4, 1) for i in range(2000)),
            LimitExceeded,
            "more than 8 maps",
            id="two thousand maps",
        ),
    ],
)
def test_maps_beyond_the_grant_are_refused(
    text: str, error: type[BpflinkdError], says: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says):
        load(compiled(source("", maps=text), tmp_path))


@pytest.mark.parametrize(
    ("kind", "key", "value", "entries", "flags"),
    [
        pytest.param(1, 4, 8, 5000, 0, id="hash"),
        pytest.param(2, 4, 40, 5000, 0, id="array"),
        pytest.param(2, 4, 1, 5000, 0, id="array of bytes"),
        pytest.param(3, 4, 4, 5000, 0, id="prog array"),
        pytest.param(4, 4, 4, 5000, 0, id="perf event array"),
        pytest.param(5, 4, 8, 5000, 0, id="per-CPU hash"),
        pytest.param(6, 4, 8, 5000, 0, id="per-CPU array"),
        pytest.param(7, 4, 80, 5000, 0, id="stack trace"),
        pytest.param(8, 4, 4, 5000, 0, id="cgroup array"),
        pytest.param(9, 4, 8, 5000, 0, id="LRU hash"),
        pytest.param(10, 4, 8, 5000, 0, id="LRU per-CPU hash"),
        pytest.param(11, 8, 8, 5000, 1, id="LPM trie"),
        pytest.param(14, 4, 4, 5000, 0, id="devmap"),
        pytest.param(15, 4, 4, 5000, 0, id="sockmap"),
        pytest.param(16, 4, 4, 2, 0, id="cpumap"),
        pytest.param(17, 4, 4, 5000, 0, id="xskmap"),
        pytest.param(18, 8, 4, 5000, 0, id="sockhash"),
        pytest.param(19, 8, 8, 0, 0, id="cgroup storage"),
        pytest.param(20, 4, 8, 5000, 0, id="reuseport array"),
        pytest.param(21, 8, 8, 0, 0, id="per-CPU cgroup storage"),
        pytest.param(22, 0, 8, 5000, 0, id="queue"),
        pytest.param(23, 0, 8, 5000, 0, id="stack"),
        pytest.param(25, 4, 4, 5000, 0, id="devmap hash"),
        pytest.param(27, 0, 0, 1 << 16, 0, id="ring buffer"),
        pytest.param(30, 0, 8, 5000, 0, id="bloom filter"),
        pytest.param(31, 0, 0, 1 << 16, 0, id="user ring buffer"),
    ],
)
def test_an_estimate_is_not_below_what_the_kernel_counts(
    kind: int, key: int, value: int, entries: int, flags: int
) -> None:
    opts = struct.pack("=QIIIIIIQII", 48, 0, 0, 0, 0, 0, flags, 0, 0, 0)  # struct bpf_map_create_opts
    fd = libbpf_calls._lib.bpf_map_create(kind, b"tried", key, value, entries, opts)
    if fd < 0:
        pytest.skip(f"this kernel does not make it: {os.strerror(-fd)}")
    try:
        counted = info.map_memory(fd)
    finally:
        os.close(fd)
    shape = MapShape("tried", kind, key, value, entries)
    assert counted <= maps.estimate(shape, libbpf_objects.possible_cpus())


def test_maps_within_the_grant_are_taken(tmp_path: Path) -> None:
    text = (
        a_map("ring", "RINGBUF", 0, 0, 1 << 16)
        + a_map("perf", "PERF_EVENT_ARRAY", 4, 4, 0)
        + a_map("hash", "LRU_HASH", 4, 4, 1000)
        + a_map("cpus", "PERCPU_ARRAY", 4, 8, 100)
    )
    held = load(compiled(source("", maps=text), tmp_path))
    assert set(held.maps) == {"ring", "perf", "hash", "cpus"}
    held.close()


# What else a hostile object asks for


@pytest.mark.parametrize(
    "section",
    [
        "freplace/other",
        "fentry/schedule",
        "lsm/bpf",
        "tp_btf/sched_switch",
        "raw_tp/sys_enter",
        "tc",
        "socket",
        "struct_ops/x",
        "syscall",
        "iter/task",
        "kprobe/schedule",
        "uprobe",
        "cgroup/connect4",
        "sk_lookup",
        "no_such",
    ],
)
@pytest.mark.parametrize("attach_type", [CONNECT4, None], ids=["as connect4", "as it says"])
def test_a_section_of_another_type_is_refused(
    section: str, attach_type: AttachType | None, tmp_path: Path
) -> None:
    data = compiled(source(f'SEC("{section}") int f(void *ctx) {{ return 1; }}'), tmp_path)
    if section == "cgroup/connect4" or (section == "no_such" and attach_type is not None):
        load(data, None, attach_type).close()
    else:
        with pytest.raises((WrongProgramType, BadProgram, NotSupported)):
            load(data, None, attach_type)


def test_struct_ops_are_refused(tmp_path: Path) -> None:
    text = """
struct tcp_congestion_ops { void *init; };
SEC("struct_ops/init") int init(void *ctx) { return 0; }
SEC(".struct_ops") struct tcp_congestion_ops hostile = { .init = (void *)init };
SEC("xdp") int f(struct xdp_md *ctx) { return XDP_PASS; }
"""
    with pytest.raises(BadProgram):
        load(compiled(source(text), tmp_path), "f")


def test_a_hundred_thousand_programs_are_counted_and_not_listed(tmp_path: Path) -> None:
    place = tmp_path / "many.s"
    bodies = "".join(
        f".globl f{i}\n.type f{i},@function\nf{i}:\nr0 = 2\nexit\n.size f{i}, .-f{i}\n"
        for i in range(100_000)
    )
    place.write_text(f'.section xdp,"ax",@progbits\n{bodies}')
    data = compile_c(place, tmp_path / "many.o").read_bytes()
    with pytest.raises(BadProgram) as caught:
        load(data, limits=Limits(seconds=20))
    assert len(str(caught.value)) < 1000


def test_bss_of_gigabytes_is_a_sentence(tmp_path: Path) -> None:
    data = compiled(source("", maps='static volatile char big[0x70000000] SEC(".bss");'), tmp_path)
    with pytest.raises((BadProgram, LimitExceeded)):
        load(data)


def test_the_kernels_configuration_is_a_map_like_others(tmp_path: Path) -> None:
    text = """
extern int LINUX_KERNEL_VERSION __attribute__((section(".kconfig")));
SEC("xdp") int f(struct xdp_md *ctx) { return LINUX_KERNEL_VERSION ? XDP_PASS : XDP_DROP; }
"""
    held = load(compiled(source(text), tmp_path))
    held.close()
    assert held.maps == ("bpflink.kconfig",)


def test_an_address_of_the_kernel_is_not_told(tmp_path: Path) -> None:
    """libbpf reads it from /proc/kallsyms, and the process sees zeros there."""
    text = """
extern const void schedule __attribute__((section(".ksyms")));
SEC("xdp") int f(struct xdp_md *ctx) { return (long)&schedule >> 32; }
"""
    data = compiled(source(text), tmp_path)
    held, ours = load(data), objects.load(data, None, attach_types.XDP)
    dumps = [run("bpftool", "prog", "dump", "xlated", "id", str(each.info.id)) for each in (held, ours)]
    held.close()
    ours.close()
    assert ["0xffffffff" in dump for dump in dumps] == [False, True]


@pytest.mark.parametrize(
    "name", [b"../..", b"a\nb c", b"\x1b[31m", b"m_one"], ids=["a path", "a line", "an escape", "a double"]
)
def test_a_map_of_an_odd_name_is_refused(name: bytes, tmp_path: Path) -> None:
    text = a_map("m_one", "ARRAY", 4, 4, 1) + a_map("m_two", "ARRAY", 4, 4, 1)
    data = compiled(source("", maps=text), tmp_path)
    with pytest.raises(BadProgram) as caught:
        load(data.replace(b"\0m_two\0", b"\0" + name.ljust(5, b"x") + b"\0"))
    assert str(caught.value).isprintable()


def test_a_log_of_megabytes_keeps_its_end(tmp_path: Path) -> None:
    text = """
SEC("xdp") int f(struct xdp_md *ctx)
{
	volatile __u64 sum = 0;
	for (int i = 0; i < 3000; i++)
		sum += ctx->ingress_ifindex * i;
	return *(unsigned char *)(long)ctx->data;
}
"""
    with pytest.raises(VerifierRejected, match="outside of the packet") as caught:
        load(compiled(source(text), tmp_path))
    assert len(caught.value.log) <= MAX_LOG
    assert caught.value.log.rstrip().splitlines()[-1].startswith("processed ")


# A process that was taken over


TAKEN_OVER = (
    PROLOGUE
    + f"""
sys.path.append({str(ROOT)!r})
from bpflinkd.kernel import libbpf_calls, loading
def load(name):
    return loading.load(os.pread(fds[0], 1 << 26, 0), name, None)
def told(**more):
    return {{"kind": "loaded", "function": "plain", "maps": [], "declared": None, "log": [0, 0], **more}}
"""
)


@pytest.mark.parametrize(
    ("script", "error", "says"),
    [
        pytest.param(
            "f = load('plain'); answer(told(), [f.fd])", Internal, "other maps", id="hides the maps"
        ),
        pytest.param(
            "f = load('plain'); m = f.map_fds['values']; answer(told(maps=['a', 'b']), [f.fd, m, m])",
            Internal,
            "other maps",
            id="sends a map twice",
        ),
        pytest.param(
            "f = load('egress'); answer(told(), [f.fd])",
            Internal,
            "of another type",
            id="sends a program of another type",
        ),
        pytest.param(
            "f = load('plain'); answer(told(maps=['a']), [f.fd, f.fd])",
            Internal,
            "of another type",
            id="sends a program for a map",
        ),
        pytest.param(
            "f = load('plain'); answer(told(function='other'), [f.fd])",
            Internal,
            "names that do not fit",
            id="sends another function",
        ),
        pytest.param(
            "f = load('plain')\n"
            "m = libbpf_calls._lib.bpf_map_create(2, b'big', 4, 8, 1 << 20, None)\n"
            "answer(told(maps=['big', *f.map_fds]), [f.fd, m, *f.map_fds.values()])",
            LimitExceeded,
            "'big' takes about 8",
            id="creates a large map",
        ),
        pytest.param(
            "f = load('plain')\n"
            "ms = [libbpf_calls._lib.bpf_map_create(2, b'm', 4, 8, 1, None) for _ in range(9)]\n"
            "names = [f'm{i}' for i in range(9)]\n"
            "answer(told(maps=[*names, *f.map_fds]), [f.fd, *ms, *f.map_fds.values()])",
            LimitExceeded,
            "more than 8 maps",
            id="creates many maps",
        ),
    ],
)
def test_a_process_that_was_taken_over_gains_nothing(
    script: str, error: type[BpflinkdError], says: str
) -> None:
    way = Spawned(script=(TAKEN_OVER + script).encode(), launcher=())
    with pytest.raises(error, match=says):
        objects.run_helper(
            way, confined_object(), "plain", attach_types.XDP, CONFINED, given=False, limits=LIMITS
        )


# Garbled objects


def variants(whole: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Bytes flipped, ranges overwritten, exchanged or removed, ends cut, headers of sections garbled."""
    rng = random.Random(seed)
    (table,) = struct.unpack_from("<Q", whole, 40)
    sections = struct.unpack_from("<H", whole, 60)[0]
    for number in range(count):
        data = bytearray(whole)
        match number % 6:
            case 0:
                for _ in range(rng.randrange(1, 40)):
                    data[rng.randrange(64, len(data))] = rng.randrange(256)
            case 1:
                del data[rng.randrange(64, len(data)) :]
            case 2:
                start, size = rng.randrange(64, len(data) - 200), rng.randrange(1, 200)
                data[start : start + size] = rng.randbytes(size)
            case 3:  # a header of a section: its type, place, size or link
                field, form = rng.choice([(4, "<I"), (24, "<Q"), (32, "<Q"), (40, "<I"), (56, "<Q")])
                place = table + 64 * rng.randrange(sections) + field
                most = 2 ** (8 * struct.calcsize(form)) - 1
                value = rng.choice([0, 1, most, most // 2, len(data), rng.randrange(64)])
                struct.pack_into(form, data, place, value)
            case 4:  # the header of the file
                data[rng.randrange(4, 64)] ^= 1 << rng.randrange(8)
            case _:
                start, size = rng.randrange(64, len(data) - 64), rng.randrange(8, 64)
                other = rng.randrange(64, len(data) - 64)
                data[start : start + size] = whole[other : other + size]
        yield bytes(data)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("name", "function"), [("confined", "plain"), ("count", "count_old"), ("single", None)]
)
def test_a_garbled_object_is_loaded_or_refused_by_name(name: str, function: str | None) -> None:
    loaded = refused = 0
    for data in variants(program(name).read_bytes(), 72, seed=2026):
        try:
            load(data, function, limits=Limits(seconds=20)).close()
            loaded += 1
        except BpflinkdError as error:
            assert not isinstance(error, Internal), error
            assert str(error).isprintable()
            refused += 1
    assert loaded + refused == 72
    assert refused > 20


# The port


def sealed(data: bytes) -> int:
    with helper._memfd("given", data, seals=helper._SEALS | 8) as fd:
        return os.dup(fd)


KERNEL = LinuxKernel()
XDP_TARGET = XdpTarget(interface="lo", mode=XdpMode.GENERIC)


def test_a_sealed_memfd_is_loaded_and_again_from_the_store() -> None:
    fd = sealed(confined_object())
    try:
        held = KERNEL.open_program(ObjectFile(fd=fd, program="plain"), XDP_TARGET, confined=CONFINED)
    finally:
        os.close(fd)
    again = KERNEL.reload_program(held.source, held.image, XDP_TARGET, CONFINED)
    assert (again.info.tag, again.maps) == (held.info.tag, held.maps)
    held.close()
    again.close()
    with pytest.raises(VerifierRejected):
        KERNEL.reload_program(
            StoredObject(sha256="", program="by_helper"), confined_object(), XDP_TARGET, CONFINED
        )


def test_a_cgroup_object_tells_its_attach_type() -> None:
    image = ObjectImage(data=confined_object(), sha256="", program="egress")
    held = KERNEL.open_program(image, CgroupPlace(path="/"), confined=CONFINED)
    assert held.declared == EGRESS
    held.close()


def test_the_callers_word_overrides_the_section() -> None:
    image = ObjectImage(data=confined_object(), sha256="", program="ingress")
    target = CgroupTarget(path="/", attach_type=EGRESS)
    held = KERNEL.open_program(image, target, given=True, confined=CONFINED)
    assert held.declared == EGRESS
    held.close()


def test_an_offloaded_program_is_roots() -> None:
    image = ObjectImage(data=confined_object(), sha256="", program="plain")
    target = XdpTarget(interface="lo", mode=XdpMode.OFFLOAD)
    with pytest.raises(NotSupported, match="only root's"):
        KERNEL.open_program(image, target, confined=CONFINED)


def test_a_descriptor_that_is_a_map_is_no_program() -> None:
    held = load(confined_object(), "plain")
    try:
        fd = held.map_fds["values"]
        with pytest.raises(BadProgram, match="is not a BPF program but a BPF map"):
            KERNEL.open_program(ProgramFd(fd=fd), XDP_TARGET, confined=CONFINED)
        KERNEL.open_program(ProgramFd(fd=held.fd), XDP_TARGET, confined=CONFINED).close()
    finally:
        held.close()


# What it may not do itself


def test_the_process_gives_up_reading_kernel_memory_for_good() -> None:
    with helper._memfd("archive", archive.script(), seals=helper._SEALS) as fd:
        script = f"""
import sys
sys.path.insert(0, "/proc/self/fd/{fd}")
from bpflinkd import compiler
def perfmon():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return [bool(int(status[s], 16) & 1 << 38) for s in ("CapInh", "CapPrm", "CapEff", "CapAmb")]
print(*perfmon())
compiler.give_up_perfmon()
print(*perfmon())
"""
        words = (*helper.LAUNCHER, "/usr/bin/python3", "-I", "-S", "-B", "-c", script)
        said = subprocess.run(words, pass_fds=[fd], capture_output=True, text=True, check=True).stdout
    assert said.split("\n")[:2] == [" ".join(["True"] * 4), " ".join(["False"] * 4)]
