"""Bad input: a sentence, the right error name, nothing changed, nothing left."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gi.repository import GLib

from tests.kernel.test_replace import REPO, load_counters
from tests.lab import Daemon
from tests.lab.compiled import PROGRAMS, compile_c, program
from tests.lab.daemon import Refused, Source, builtin, by_fd, by_id, elf, pinned
from tests.lab.size import Size
from tests.lab.world import run, until


def file_with(data: bytes) -> Callable[[Daemon], Source]:
    def make(daemon: Daemon) -> Source:
        place = daemon.world.dir / "given.o"
        place.write_bytes(data)
        return elf(place)

    return make


def truncated(part: float) -> Callable[[Daemon], Source]:
    whole = program("single").read_bytes()
    return file_with(whole[: int(len(whole) * part)])


def for_this_machine(daemon: Daemon) -> Source:
    source = daemon.world.dir / "native.c"
    source.write_text("int main(void) { return 0; }")
    return elf(compile_c(source, daemon.world.dir / "native.o", target="x86_64-linux-gnu"))


def no_program(daemon: Daemon) -> Source:
    source = daemon.world.dir / "empty.c"
    source.write_text('char _license[] __attribute__((section("license"))) = "GPL";')
    return elf(compile_c(source, daemon.world.dir / "empty.o"))


def descriptor(path: str) -> Callable[[Daemon], Source]:
    return lambda _: by_fd(os.open(path, os.O_RDONLY))


def pipe_as_object(_: Daemon) -> Source:
    reading, _writing = os.pipe()
    return elf(Path(f"/proc/self/fd/{reading}"))


def map_pin(daemon: Daemon) -> Source:
    place = daemon.world.bpffs / "a_map"
    words = "type array key 4 value 4 entries 1 name a_map"
    run("bpftool", "map", "create", place, *words.split())
    return pinned(place)


def huge(daemon: Daemon) -> Source:
    place = daemon.world.dir / "huge.o"
    with place.open("wb") as file:
        file.truncate(1 << 40)
    return elf(place)


@pytest.mark.parametrize(
    ("source", "error", "says"),
    [
        pytest.param(file_with(b""), "BadProgram", "empty", id="an empty file"),
        pytest.param(file_with(b"int main"), "BadProgram", "not an ELF", id="C source"),
        pytest.param(truncated(0.01), "BadProgram", "truncated|not an ELF", id="a few bytes"),
        pytest.param(truncated(0.5), "BadProgram", "libbpf can read", id="half an object"),
        pytest.param(for_this_machine, "BadProgram", "x86-64", id="an object for this machine"),
        pytest.param(no_program, "BadProgram", "holds no program", id="an object without program"),
        pytest.param(huge, "BadProgram", "at most", id="a sparse terabyte"),
        pytest.param(pipe_as_object, "BadProgram", "regular file", id="a pipe"),
        pytest.param(lambda _: elf(Path("/tmp")), "BadProgram", "regular file", id="a directory"),
        pytest.param(lambda _: elf(Path("/dev/zero")), "BadProgram", "regular", id="/dev/zero"),
        pytest.param(lambda _: by_id(4_000_000_000), "BadProgram", "there is none", id="no such id"),
        pytest.param(lambda _: pinned(Path("/nowhere")), "BadProgram", "no such file", id="no pin"),
        pytest.param(lambda _: pinned(Path("/etc/passwd")), "BadProgram", "bpffs", id="a file as pin"),
        pytest.param(lambda _: pinned(Path("x")), "BadProgram", "absolute", id="a relative pin"),
        pytest.param(map_pin, "BadProgram", "a BPF map", id="a map's pin"),
        pytest.param(descriptor("/dev/null"), "BadProgram", "/dev/null", id="a foreign descriptor"),
        pytest.param(lambda _: builtin("drop"), "BadProgram", "there is: pass", id="no such builtin"),
    ],
)
def test_bad_programs(daemon: Daemon, source: Callable[[Daemon], Source], error: str, says: str) -> None:
    given = source(daemon)
    with pytest.raises(Refused, match=says) as refusal:
        daemon.attach("edge", {"xdp": "v0"}, given)
    assert refusal.value.name == error
    assert not daemon.links()
    assert not daemon.pinned()
    daemon.attach("edge", {"xdp": "v0"}, builtin())


@pytest.mark.parametrize(
    ("target", "error", "says"),
    [
        pytest.param({"xdp": "nope0"}, "HookGone", "--wait", id="no such interface"),
        pytest.param({"cgroup": "/nope"}, "HookGone", "--wait", id="no such cgroup"),
        pytest.param({"xdp": ""}, "BadTarget", "no interface", id="an empty interface"),
        pytest.param({"xdp": "a" * 128}, "BadTarget", "15 bytes", id="a long interface name"),
        pytest.param({"xdp": "a/b"}, "BadTarget", "cannot be", id="a path as interface"),
        pytest.param({"xdp": "v0", "mode": "fast"}, "BadTarget", "native", id="no such mode"),
        pytest.param({"cgroup": "x"}, "BadTarget", "slash", id="a relative cgroup"),
        pytest.param({"cgroup": "/../x"}, "BadTarget", r"'\.\.'", id="a cgroup path with dots"),
        pytest.param({"cgroup": "/a\nb"}, "BadTarget", "unprintable", id="a newline in a path"),
        pytest.param({"cgroup": "/" + "a/" * 4000}, "BadTarget", "longer", id="an endless path"),
        pytest.param({"uprobe": "x"}, "BadTarget", "must be", id="an unknown kind"),
        pytest.param({"kprobe": "a b"}, "BadTarget", "cannot be", id="a blank in a function"),
        pytest.param({"kprobe": "x" * 10_000}, "BadTarget", "at most 511", id="an endless function"),
        pytest.param({"kprobe-multi": "a/*"}, "BadTarget", "not a pattern", id="a slash in a pattern"),
        pytest.param({"xdp": "lo", "mode": "native"}, "NotSupported", "generic", id="lo is not native"),
        pytest.param({"cgroup": "/", "attach_type": "xdp"}, "BadTarget", "interface", id="xdp there"),
        pytest.param({"cgroup": "/", "attach_type": "e"}, "BadTarget", "egress", id="no such type"),
    ],
)
def test_bad_targets(daemon: Daemon, target: dict[str, str], error: str, says: str) -> None:
    with pytest.raises(Refused, match=says) as refusal:
        source = elf(program("count"), "egress_count") if "cgroup" in target else builtin()
        daemon.attach("edge", target, source)
    assert refusal.value.name == error
    assert not daemon.links()
    assert not daemon.pinned()


def test_xdp_target_refuses_a_cgroup_program(daemon: Daemon) -> None:
    with pytest.raises(Refused, match="cgroup_skb") as refusal:
        daemon.attach("edge", {"xdp": "v0"}, elf(program("count"), "egress_count"))
    assert refusal.value.name == "WrongProgramType"


def test_builtin_needs_to_know_the_attach_type(daemon: Daemon) -> None:
    with pytest.raises(Refused, match="--attach-type"):
        daemon.attach("it", {"cgroup": daemon.world.cgroup()}, builtin())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param("a" * 129, id="too long"),
        pytest.param("a" * 10_000, id="far too long"),
        pytest.param("../etc", id="a path"),
        pytest.param("a/b", id="a slash"),
        pytest.param("a\nb", id="a newline"),
        pytest.param("-rf", id="a leading dash"),
        pytest.param("ä", id="not ASCII"),
        pytest.param("a" + "." * 127, id="does not fit a directory entry"),
    ],
)
def test_bad_names(daemon: Daemon, name: str) -> None:
    with pytest.raises(Refused) as refusal:
        daemon.attach(name, {"xdp": "v0"}, builtin())
    assert refusal.value.name == "BadName"
    assert not daemon.pinned()


def test_longest_name_works(daemon: Daemon) -> None:
    daemon.attach("a" * 128, {"xdp": "v0"}, builtin())
    daemon.detach("a" * 128)


def test_name_taken(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    with pytest.raises(Refused, match="already") as refusal:
        daemon.attach("edge", {"xdp": "v1"}, builtin())
    assert refusal.value.name == "NameTaken"


def test_directory_of_the_name_taken_by_others(daemon: Daemon) -> None:
    (daemon.pins / "edge").mkdir()
    with pytest.raises(Refused, match="not by a link we know") as refusal:
        daemon.attach("edge", {"xdp": "v0"}, builtin())
    assert refusal.value.name == "NameTaken"
    assert (daemon.pins / "edge").exists()


@pytest.mark.parametrize("method", ["Replace", "Detach"])
def test_no_such_link(daemon: Daemon, method: str) -> None:
    daemon.attach("edge-filter", {"xdp": "v0"}, builtin())
    with pytest.raises(Refused, match="did you mean 'edge-filter'") as refusal:
        daemon.replace("edge-filtr", builtin()) if method == "Replace" else daemon.detach("edge-filtr")
    assert refusal.value.name == "NoSuchLink"


def test_hook_held_by_netlink(daemon: Daemon) -> None:
    daemon.world.ip("link", "set", "v0", "xdp", "obj", str(program("single")), "sec", "xdp")
    with pytest.raises(Refused, match="only_one") as refusal:
        daemon.attach("edge", {"xdp": "v0"}, builtin())
    assert refusal.value.name == "HookBusy"
    assert "only_one" in daemon.foreign()[0]["program"]["name"]


def test_hook_held_by_another_link_of_ours(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    with pytest.raises(Refused, match="our own link 'edge'") as refusal:
        daemon.attach("second", {"xdp": "v0"}, builtin())
    assert refusal.value.name == "HookBusy"


def test_hook_held_by_a_strangers_link_names_who(daemon: Daemon) -> None:
    code = (
        "import socket, time\nfrom bpflinkd.kernel import libbpf\nfrom bpflinkd.kernel.objects import load\n"
        "from bpflinkd.core.attach_types import XDP\n"
        f"p = load(open('{program('single')}', 'rb').read(), None, XDP)\n"
        "link = libbpf.link_create(p.fd, socket.if_nametoindex('v0'), XDP.number)\n"
        "print('held', flush=True)\ntime.sleep(60)\n"
    )
    stranger = daemon.world.process(
        *daemon.world.inside(sys.executable, "-c", code), cwd=REPO, stdout=subprocess.PIPE
    )
    assert stranger.stdout
    stranger.stdout.readline()
    says = rf"held by program only_one .* by bpf_link \d+, held by python \(pid {stranger.pid}\)"
    with pytest.raises(Refused, match=says) as refusal:
        daemon.attach("edge", {"xdp": "v0"}, builtin())
    assert refusal.value.name == "HookBusy"
    assert daemon.foreign()[0]["processes"] == [{"pid": stranger.pid, "comm": "python"}]


@pytest.mark.parametrize(
    ("method", "signature", "arguments", "error"),
    [
        pytest.param(
            "Attach",
            "(sa{sv}a{sv}a{sv})",
            ("x", {"xdp": GLib.Variant("u", 1)}, {"builtin": GLib.Variant("s", "pass")}, {}),
            "BadTarget",
            id="a number as interface",
        ),
        pytest.param(
            "Attach",
            "(sa{sv}a{sv}a{sv})",
            ("x", {"xdp": GLib.Variant("s", "v0")}, {}, {}),
            "BadProgram",
            id="no program",
        ),
        pytest.param(
            "Attach",
            "(sa{sv}a{sv}a{sv})",
            ("x", {"xdp": GLib.Variant("s", "v0")}, {"fd": GLib.Variant("h", 7)}, {}),
            "BadProgram",
            id="a descriptor that was not sent",
        ),
        pytest.param(
            "Attach",
            "(sa{sv}a{sv}a{sv})",
            ("x", {"xdp": GLib.Variant("s", "v0")}, {"id": GLib.Variant("x", -1)}, {}),
            "BadProgram",
            id="a negative id",
        ),
        pytest.param(
            "Attach",
            "(sa{sv}a{sv}a{sv})",
            (
                "x",
                {"xdp": GLib.Variant("s", "v0")},
                {"builtin": GLib.Variant("s", "pass")},
                {"colour": GLib.Variant("s", "red")},
            ),
            "BadOption",
            id="an unknown option",
        ),
        pytest.param(
            "Attach",
            "(sa{sv}a{sv}a{sv})",
            (
                "x",
                {"xdp": GLib.Variant("s", "v0")},
                {"builtin": GLib.Variant("s", "pass")},
                {"policy": GLib.Variant("s", "fight")},
            ),
            "BadOption",
            id="an unknown policy",
        ),
        pytest.param(
            "Replace",
            "(sa{sv}a{sv})",
            ("x", {"builtin": GLib.Variant("s", "pass")}, {"expect": GLib.Variant("s", "1")}),
            "BadOption",
            id="a generation in words",
        ),
        pytest.param(
            "Attach",
            "(s)",
            ("x",),
            "org.freedesktop.DBus.Error.InvalidArgs",
            id="too few arguments",
        ),
    ],
)
def test_malformed_calls(
    daemon: Daemon, method: str, signature: str, arguments: tuple[object, ...], error: str
) -> None:
    with pytest.raises(Refused) as refusal:
        daemon.call(method, signature, arguments)
    assert refusal.value.name == error
    assert not daemon.links()


@pytest.mark.cold
def test_refusals_leak_no_descriptor(daemon: Daemon) -> None:
    def refuse() -> None:
        for source in (elf(program("count")), elf(program("count"), "verifier_hates"), by_id(1 << 31)):
            with pytest.raises(Refused):
                daemon.attach("edge", {"xdp": "v0"}, source)

    refuse()
    before = Size(daemon).fds
    for _ in range(10):
        refuse()
    # They are closed a moment after the answer.
    until(lambda: Size(daemon).fds <= before, "as few descriptors as before")


@pytest.mark.cold
def test_calls_leave_no_memory_behind(daemon: Daemon) -> None:
    """GIO leaks an invocation with each call, 2 KB of it, where nobody takes care."""

    def resident_kib(calls: int) -> int:
        for _ in range(calls):
            daemon.links()
        return Size(daemon).kib

    before = resident_kib(500)
    assert resident_kib(2000) - before < 1000


def test_object_that_asks_to_pin_its_maps_does_not_reach_out(daemon: Daemon) -> None:
    """LIBBPF_PIN_BY_NAME would reuse or make a pin of the caller's choosing."""
    text = (PROGRAMS / "count.bpf.c").read_text()
    text = text.replace("int (*max_entries)[2];", "int (*max_entries)[2]; int (*pinning)[1];")
    source = daemon.world.dir / "pinning.bpf.c"
    source.write_text(text)
    obj = compile_c(source, daemon.world.dir / "pinning.bpf.o")
    daemon.attach("edge", {"xdp": "v0"}, elf(obj, "count_old"))
    assert not Path("/sys/fs/bpf/counters").exists()
    assert (daemon.pins / "edge" / "maps" / "counters").exists()


def test_counters_helper_is_sound(daemon: Daemon) -> None:
    pins, counters = load_counters(daemon)
    assert [pin.name for pin in pins] == ["count_old", "count_new"]
    assert [each[0] for each in counters] == [0, 0]
