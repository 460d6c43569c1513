"""Attaching: every kind of target, every source of a program."""

import os
import subprocess
from pathlib import Path

import pytest

from bpflinkd.core import attach_types
from bpflinkd.core.attach_types import AttachType
from bpflinkd.kernel import libbpf
from tests.lab import Daemon, World
from tests.lab.compiled import compile_c, program
from tests.lab.daemon import Refused, Source, builtin, by_fd, by_id, elf, pinned
from tests.lab.world import run

BTF = Path("/sys/kernel/btf/vmlinux")
CGROUP_TYPES = [pytest.param(a, id=a.name) for a in attach_types.CGROUP_ATTACH_TYPES]


def known_to_kernel(attach_type: AttachType) -> bool:
    """Whether the running kernel has it, by the enumerator's name in its BTF."""
    return f"BPF_{attach_type.long_name.upper()}".encode() in BTF.read_bytes()


def test_attach_type_numbers_are_the_kernels() -> None:
    dump = run("bpftool", "btf", "dump", "file", BTF, "format", "raw")
    for attach_type in (attach_types.XDP, *attach_types.CGROUP_ATTACH_TYPES):
        if known_to_kernel(attach_type):
            name = f"BPF_{attach_type.long_name.upper()}"
            assert f"'{name}' val={attach_type.number}\n" in dump


@pytest.mark.parametrize("attach_type", CGROUP_TYPES)
def test_pass_attaches_to_every_cgroup_attach_type(daemon: Daemon, attach_type: AttachType) -> None:
    path = daemon.world.cgroup()
    target = {"cgroup": path, "attach_type": attach_type.name}
    if not known_to_kernel(attach_type):
        with pytest.raises(Refused, match="NotSupported"):
            daemon.attach("it", target, builtin())
        return
    daemon.attach("it", target, builtin())
    assert daemon.state("it") == "active"
    fd = os.open(World.cgroup_dir(path), os.O_RDONLY)
    try:
        running = libbpf.prog_query(fd, attach_type.number)
    finally:
        os.close(fd)
    assert running == [daemon.link("it")["Program"]["id"]]
    daemon.replace("it", builtin())
    assert daemon.link("it")["Generation"] == 2


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An object with one program in each ELF section that names a cgroup attach type."""
    place = tmp_path_factory.mktemp("sections")
    lines = ["#define SEC(name) __attribute__((section(name), used))"]
    lines += [
        f'SEC("{section}") int p_{a.name}_{number}(void *ctx) {{ return 1; }}'
        for a in attach_types.CGROUP_ATTACH_TYPES
        for number, section in enumerate(a.sections)
    ]
    lines.append('char _license[] SEC("license") = "GPL";')
    source = place / "sections.bpf.c"
    source.write_text("\n".join(lines))
    return compile_c(source, place / "sections.bpf.o")


@pytest.mark.parametrize("attach_type", CGROUP_TYPES)
def test_attach_type_comes_from_the_section(daemon: Daemon, sections: Path, attach_type: AttachType) -> None:
    if not known_to_kernel(attach_type):
        pytest.skip(f"this kernel has no attach type {attach_type.name}")
    for number in range(len(attach_type.sections)):
        name = f"p_{attach_type.name}_{number}"
        path = daemon.world.cgroup()
        daemon.attach(name, {"cgroup": path}, elf(sections, name))
        assert daemon.link(name)["Target"]["attach_type"] == attach_type.name


def test_attach_type_can_be_given_by_either_name(daemon: Daemon) -> None:
    for number, word in enumerate(("bind4", "cgroup_inet4_bind")):
        target = {"cgroup": daemon.world.cgroup(), "attach_type": word}
        daemon.attach(f"l{number}", target, elf(program("count"), "connect_ok"))
        assert daemon.link(f"l{number}")["Target"]["attach_type"] == "bind4"


def test_attach_type_of_a_loaded_program_is_found_by_asking_the_kernel(daemon: Daemon) -> None:
    path = daemon.world.cgroup()
    daemon.attach("first", {"cgroup": path}, elf(program("count"), "connect_ok"))
    number = daemon.link("first")["Program"]["id"]
    daemon.attach("second", {"cgroup": path}, by_id(number))
    assert daemon.link("second")["Target"]["attach_type"] == "connect4"


@pytest.mark.parametrize("mode", ["auto", "native", "generic"])
def test_xdp_modes(daemon: Daemon, mode: str) -> None:
    daemon.attach("edge", {"xdp": "v0", "mode": mode}, builtin())
    shown = daemon.world.ip("-details", "link", "show", "v0")
    assert ("xdpgeneric" in shown) == (mode == "generic")
    assert f"prog/xdp id {daemon.link('edge')['Program']['id']}" in shown
    assert daemon.replace("edge", elf(program("count"), "count_old")) == 2
    assert daemon.link("edge")["Target"]["mode"] == mode


def test_offload_without_a_device_that_can_is_refused(daemon: Daemon) -> None:
    with pytest.raises(Refused) as refusal:
        daemon.attach("edge", {"xdp": "v0", "mode": "offload"}, elf(program("single")))
    assert refusal.value.name in {"NotSupported", "BadProgram", "KernelRefused"}
    assert not daemon.links()


def _by_pin(world: World) -> Source:
    place = world.bpffs / "elsewhere"
    run("bpftool", "prog", "load", program("single"), place)
    return pinned(place)


def _by_id(world: World) -> Source:
    _by_pin(world)
    return by_id(prog_id_of(world.bpffs / "elsewhere"))


def _by_fd(world: World) -> Source:
    _by_pin(world)
    return by_fd(libbpf.obj_get(str(world.bpffs / "elsewhere")))


def prog_id_of(pin: Path) -> int:
    """Kernel id of a pinned program, as bpftool tells it."""
    return int(run("bpftool", "prog", "show", "pinned", pin).split(":")[0])


@pytest.mark.parametrize(
    ("source", "remembered"),
    [
        pytest.param(lambda _: elf(program("single")), "object", id="an object with one program"),
        pytest.param(lambda _: elf(program("count"), "count_old"), "object", id="one of several"),
        pytest.param(_by_pin, "pin", id="a pin"),
        pytest.param(_by_id, "id", id="a kernel id"),
        pytest.param(_by_fd, "fd", id="a descriptor"),
        pytest.param(lambda _: builtin(), "builtin", id="the built-in pass"),
    ],
)
def test_sources(daemon: Daemon, source: object, remembered: str) -> None:
    given = source(daemon.world)  # type: ignore[operator]
    daemon.attach("edge", {"xdp": "v0"}, given)
    assert daemon.link("edge")["Source"][0] == remembered
    assert daemon.replace("edge", given) == 2
    daemon.restart()
    assert (daemon.state("edge"), daemon.link("edge")["Generation"]) == ("active", 2)


def test_what_is_on_the_bpffs(daemon: Daemon) -> None:
    daemon.attach("eth0.100", {"xdp": "v0"}, elf(program("count"), "count_old"))
    home = daemon.pins / "eth0_2e100"
    assert sorted(p.name for p in home.iterdir()) == ["link", "maps", "program"]
    assert [p.name for p in (home / "maps").iterdir()] == ["counters"]
    assert prog_id_of(home / "program") == daemon.link("eth0.100")["Program"]["id"]
    daemon.replace("eth0.100", builtin())
    assert not list((home / "maps").iterdir())
    daemon.replace("eth0.100", elf(program("count"), "count_new"))
    assert [p.name for p in (home / "maps").iterdir()] == ["counters"]
    daemon.detach("eth0.100")
    assert not daemon.pinned()


def test_pass_lets_a_large_socket_option_through(daemon: Daemon) -> None:
    """More than a page: the kernel refuses the call unless the program waives it."""
    path = daemon.world.cgroup()
    for kind in ("setsockopt", "getsockopt"):
        daemon.attach(kind, {"cgroup": path, "attach_type": kind}, builtin())
    code = (
        "import ctypes, os, socket\n"
        f"open('{World.cgroup_dir(path)}/cgroup.procs', 'w').write(str(os.getpid()))\n"
        "s = socket.socket()\n"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'lo' + bytes(9000))\n"
        "value, size = ctypes.create_string_buffer(9000), ctypes.c_uint32(9000)\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "get = (s.fileno(), socket.SOL_SOCKET, socket.SO_TYPE, value, ctypes.byref(size))\n"
        "assert libc.getsockopt(*get) == 0, ctypes.get_errno()\n"
    )
    done = subprocess.run(["/usr/bin/python3", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
