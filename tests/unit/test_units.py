"""The files for systemd and D-Bus, read by systemd's own tools; and what has to agree with the code."""

import configparser
import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gi.repository import Gio, GLib

from bpflinkd.config import Config
from bpflinkd.config.settings import LONGEST_COMPILE
from bpflinkd.dbus import contract
from bpflinkd.kernel.helper import Limits
from bpflinkd.systemd import fdstore
from tests.unit.system_bus import AS_NOBODY, connect, system_bus

UNITS = Path(__file__).parents[2] / "units"
MOST_EXPOSED = 3.0
"""What `systemd-analyze security` of systemd 252 says; docs/service.md tells where the rest comes from."""
MAX_ARG_STRLEN = 128 << 10
DAEMON, SOCKET, COMPILER = "bpflinkd.service", "bpflinkd-compiler.socket", "bpflinkd-compiler@.service"


def run(*words: str | Path, **environment: str) -> str:
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit as it is installed beside the others, with programs that exist."""
    for program in ("bpflinkd", "bpflinkctl"):
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    for page in ("service.md", "source.md"):
        (tmp_path / page).write_text("")
    for name in (DAEMON, SOCKET, COMPILER):
        text = (UNITS / name).read_text()
        text = text.replace("@BINDIR@", str(tmp_path)).replace("@DOCDIR@", str(tmp_path))
        (tmp_path / name).write_text(text.replace("@COMPILER@", str(tmp_path / "compiler.py")))
    return tmp_path / DAEMON


def settings(name: str, unit: str = DAEMON) -> list[str]:
    """What a unit says of one setting."""
    text = (UNITS / unit).read_text()
    return [word for value in re.findall(rf"^{name}=(.*)$", text, re.MULTILINE) for word in value.split()]


def verify(unit: Path, *more: str, **environment: str) -> str:
    """`systemd-analyze verify`, which finds the units beside it in no place but this."""
    path = f"{unit.parent}:"
    return run("systemd-analyze", "verify", "--man=no", unit, *more, SYSTEMD_UNIT_PATH=path, **environment)


def test_systemd_finds_nothing_wrong(unit: Path) -> None:
    assert verify(unit, str(unit.with_name(SOCKET)), str(unit.with_name(COMPILER.replace("@", "@1")))) == ""


@pytest.mark.parametrize(("name", "most"), [(DAEMON, MOST_EXPOSED), (COMPILER, 1.1)])
def test_exposure_does_not_grow(unit: Path, name: str, most: float) -> None:
    said = run("systemd-analyze", "security", "--offline=true", "--no-pager", unit.with_name(name))
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert found is not None
    assert float(found[1]) <= most


def test_nothing_that_comes_after_the_network_or_with_the_bus_is_waited_for(unit: Path) -> None:
    """As systemd itself resolves it: with all that settings bring along."""
    others = (SOCKET, COMPILER.replace("@", "@1"))
    said = verify(unit, *(str(unit.with_name(name)) for name in others), SYSTEMD_LOG_LEVEL="debug")
    early = {"basic.target", "sysinit.target", "sockets.target", "network-pre.target", "network.target"}
    for name in (DAEMON, *others):
        about = said.partition(f"-> Unit {name}:")[2].partition("-> Unit ")[0]
        assert "Unit Load State: loaded" in about
        waited_for = set(re.findall(r"^\t\t(?:After|Requires|Requisite|BindsTo): (\S+)", about, re.MULTILINE))
        assert not waited_for & early
        assert not [other for other in waited_for if "dbus" in other]
        if name == DAEMON:
            assert {"local-fs.target", SOCKET} <= waited_for


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        pytest.param("Type", "notify", id="it tells when it is ready"),
        pytest.param("StartLimitIntervalSec", "0", id="it never gives up"),
        pytest.param("Before", "network-pre.target", id="programs are there before the first packet"),
        pytest.param("ReadWritePaths", f"-{Config().bpffs}", id="pins can be made"),
        pytest.param("ExecStartPre", str(Config().bpffs), id="there is a place for pins"),
        pytest.param("Wants", SOCKET, id="C can be compiled"),
        pytest.param("ProtectKernelTunables", "yes", id="it changes no setting of the kernel"),
        pytest.param("ProtectKernelModules", "yes", id="it loads no module"),
        pytest.param("RequiresMountsFor", str(Config().bpffs.parent), id="the bpffs is there"),
        pytest.param("RequiresMountsFor", str(Config().state_dir), id="records are there"),
        pytest.param("RequiresMountsFor", str(Config().config_dir), id="declarations are there"),
        pytest.param("StateDirectory", Config().state_dir.name, id="records have a place"),
        pytest.param("RuntimeDirectory", Config().runtime_dir.name, id="volatile files have a place"),
        pytest.param("FileDescriptorStoreMax", str(fdstore.MOST), id="the store has the size the code knows"),
        pytest.param("SystemCallFilter", "bpf", id="bpf is in no set that is allowed"),
        pytest.param("SystemCallFilter", "perf_event_open", id="perf_event_open neither"),
        pytest.param("SystemCallFilter", "sched_setscheduler", id="a map is read without preemption"),
    ],
)
def test_the_unit_says(setting: str, value: str) -> None:
    assert value in settings(setting)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("ProtectKernelLogs", "takes CAP_SYSLOG"),
        ("RestrictRealtime", "forbids SCHED_FIFO"),
        ("PrivateNetwork", "hides the interfaces"),
        ("PrivateUsers", "capabilities would not count"),
        ("BusName", "brings Requires=dbus.socket in some versions"),
    ],
)
def test_the_unit_does_not_say(setting: str, reason: str) -> None:
    assert settings(setting) == [], reason


@pytest.mark.parametrize("capability", ["SETUID", "SETGID", "SETPCAP", "KILL", "SYS_NICE", "SYS_MODULE"])
def test_the_daemon_cannot(capability: str) -> None:
    assert f"CAP_{capability}" not in settings("CapabilityBoundingSet")


def environment() -> dict[str, str]:
    return dict(word.split("=", 1) for word in settings("Environment"))


def test_the_daemon_knows_where_compilers_are() -> None:
    assert [environment()["BPFLINKD_COMPILER_SOCKET"]] == settings("ListenSequentialPacket", SOCKET)
    assert settings("SocketMode", SOCKET) == ["0600"]


def test_the_daemon_knows_where_the_symbol_table_is(tmp_path: Path) -> None:
    place = environment()["BPFLINKD_KALLSYMS"]
    assert f"-/proc/kallsyms:{place}" in settings("BindReadOnlyPaths")
    code = "from bpflinkd.kernel import symbols; print(symbols._KALLSYMS)"
    root = str(UNITS.parent)
    said = run(sys.executable, "-c", code, BPFLINKD_KALLSYMS=place, PYTHONPATH=root)
    assert said == f"{place}\n"


# The compiler's unit


def test_the_compiler_outlives_the_daemons_patience() -> None:
    assert int(*settings("RuntimeMaxSec", COMPILER)) > LONGEST_COMPILE


def test_the_compiler_may_have_the_memory_that_it_is_given() -> None:
    assert settings("MemoryMax", COMPILER) == ["1G"]
    assert Limits().memory <= 1 << 30


def test_the_compiler_is_the_user_that_sysusers_makes() -> None:
    (line,) = re.findall(r"^u (\S+)", (UNITS / "bpflinkd.sysusers.conf").read_text(), re.MULTILINE)
    assert settings("User", COMPILER) == [line]


@pytest.mark.parametrize("setting", ["AmbientCapabilities", "CapabilityBoundingSet"])
def test_the_compiler_can_load_programs_and_nothing_else(setting: str) -> None:
    assert settings(setting, COMPILER) == ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]


def test_the_compiler_sees_the_headers_of_the_kernel() -> None:
    assert settings("ProtectKernelModules", COMPILER) == []
    assert not {"-/usr", "-/lib", "-/usr/src"} & set(settings("InaccessiblePaths", COMPILER))


def test_what_is_installed_of_units_is_uninstalled() -> None:
    """Both go by one list."""
    makefile = (UNITS.parent / "Makefile").read_text()
    (listed,) = re.findall(r"^UNITS := (.*)$", makefile, re.MULTILINE)
    assert set(listed.split()) == {DAEMON, SOCKET, COMPILER}
    assert "for unit in $(UNITS)" in makefile
    assert "$(addprefix $(DESTDIR)$(UNITDIR)/,$(UNITS))" in makefile


def test_a_full_store_leaves_the_daemon_startable() -> None:
    assert len("LISTEN_FDNAMES=") + fdstore.MOST * (fdstore.LONGEST_KEY + 1) <= MAX_ARG_STRLEN


# D-Bus


def ini(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((UNITS / name).read_text())
    return parser


def test_the_bus_starts_the_unit_by_its_alias() -> None:
    activation = ini("org.bpflinkd1.service")["D-BUS Service"]
    assert activation["Name"] == "org.bpflinkd1"
    assert activation["SystemdService"] == ini("bpflinkd.service")["Install"]["Alias"]


@pytest.fixture(scope="module")
def bus() -> Iterator[str]:
    """A bus with Debian's policy and ours, and root's service on it."""
    if os.geteuid() != 0:
        pytest.skip("needs root, who alone may own the name")
    with system_bus(UNITS / "org.bpflinkd1.conf") as address, contextlib.ExitStack() as stack:
        service = connect(address)
        stack.callback(service.close_sync, None)
        names = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
        wanted = GLib.Variant("(su)", ("org.bpflinkd1", 0))
        flags = Gio.DBusCallFlags.NONE
        owned = service.call_sync(*names, "RequestName", wanted, None, flags, 5000, None)
        assert owned.unpack() == (1,)
        service.add_filter(_echo)
        yield address


def _echo(service: Gio.DBusConnection, message: Gio.DBusMessage, incoming: bool) -> Gio.DBusMessage | None:
    """Answer every call that gets through with its interface, and tell everybody."""
    if not incoming or message.get_message_type() != Gio.DBusMessageType.METHOD_CALL:
        return message
    heard = GLib.Variant("(s)", (message.get_interface() or "none",))
    reply = Gio.DBusMessage.new_method_reply(message)
    reply.set_body(heard)
    service.send_message(reply, Gio.DBusSendMessageFlags.NONE)
    service.emit_signal(None, "/org/bpflinkd1", "org.bpflinkd1.Manager", "LinkAdded", heard)
    return None


def as_nobody(bus: str, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [*AS_NOBODY, "busctl", f"--address={bus}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)


def test_only_root_may_own_the_name(bus: str) -> None:
    words = ("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "RequestName", "su", "org.bpflinkd1", "0")
    done = as_nobody(bus, "call", *words)
    assert (done.returncode, done.stderr) == (1, "Call failed: Access denied\n")


@pytest.mark.parametrize(
    "interface",
    [
        contract.MANAGER,
        contract.LINK,
        contract.PROPERTIES,
        contract.OBJECT_MANAGER,
        "org.freedesktop.DBus.Introspectable",
        "org.freedesktop.DBus.Peer",
    ],
)
def test_everyone_may_call(bus: str, interface: str) -> None:
    done = as_nobody(bus, "call", "org.bpflinkd1", "/org/bpflinkd1", interface, "Anything")
    assert done.stdout == f's "{interface}"\n', done.stderr


@pytest.mark.parametrize("interface", ["org.bpflinkd1.Other", "org.freedesktop.systemd1.Manager"])
def test_nothing_else_gets_through(bus: str, interface: str) -> None:
    done = as_nobody(bus, "call", "org.bpflinkd1", "/org/bpflinkd1", interface, "Anything")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "Call failed: Access denied\n")


def test_everyone_hears_signals(bus: str) -> None:
    code = (
        "import sys; from gi.repository import Gio, GLib; f = Gio.DBusConnectionFlags\n"
        "bus = Gio.DBusConnection.new_for_address_sync(sys.argv[1], f.AUTHENTICATION_CLIENT |"
        " f.MESSAGE_BUS_CONNECTION, None, None)\n"
        "loop = GLib.MainLoop()\n"
        "bus.signal_subscribe(None, 'org.bpflinkd1.Manager', 'LinkAdded', None, None, 0,"
        " lambda *heard: (print(heard[5].unpack()[0]), loop.quit()))\n"
        "peer = ('org.bpflinkd1', '/org/bpflinkd1', 'org.freedesktop.DBus.Peer')\n"
        "bus.call(*peer, 'Ping', None, None, 0, -1, None)\n"
        "loop.run()"
    )
    done = subprocess.run(
        [*AS_NOBODY, "/usr/bin/python3", "-c", code, bus],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.stdout == "org.freedesktop.DBus.Peer\n", done.stderr


def test_what_is_installed_for_buses_and_polkit_is_uninstalled() -> None:
    makefile = (UNITS.parent / "Makefile").read_text()
    uninstall = makefile.partition("\nuninstall:")[2].partition("\nclean:")[0]
    for place, name in (
        ("POLICYDIR", "org.bpflinkd1.conf"),
        ("ACTIVATIONDIR", "org.bpflinkd1.service"),
        ("POLKITDIR", "org.bpflinkd1.policy"),
    ):
        assert f"install -m 644 units/{name} $(DESTDIR)$({place})/{name}" in makefile
        assert f"$(DESTDIR)$({place})/{name}" in uninstall


# Users and directories, made below a root of our own


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\n")
    return tmp_path


def test_the_compilers_user_can_do_nothing(root: Path) -> None:
    shutil.copy(UNITS / "bpflinkd.sysusers.conf", root / "bpflinkd.conf")
    run("systemd-sysusers", f"--root={root}", root / "bpflinkd.conf")
    (line,) = [
        line for line in (root / "etc/passwd").read_text().splitlines() if line.startswith("bpflinkd:")
    ]
    _, _, uid, _, _, home, shell = line.split(":")
    assert 0 < int(uid) < 1000
    assert (home, shell) == ("/nonexistent", "/usr/sbin/nologin")


@pytest.mark.parametrize(
    ("place", "mode"),
    [
        ("etc/bpflinkd/links.d", 0o755),
        ("var/lib/bpflinkd", 0o700),
        ("run/bpflinkd", 0o755),
    ],
)
def test_directories_are_made(root: Path, place: str, mode: int) -> None:
    run("systemd-tmpfiles", f"--root={root}", "--create", UNITS / "bpflinkd.tmpfiles.conf")
    assert (root / place).stat().st_mode & 0o7777 == mode
