"""The files for systemd and D-Bus, read by systemd's own tools; and what has to agree with the code."""

import configparser
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bpflinkd.config import Config
from bpflinkd.systemd import fdstore

UNITS = Path(__file__).parents[2] / "units"
MOST_EXPOSED = 3.7
"""What `systemd-analyze security` of systemd 252 says; docs/service.md tells where the rest comes from."""
MAX_ARG_STRLEN = 128 << 10


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
    """The unit as it is installed, with programs that exist."""
    for program in ("bpflinkd", "bpflinkctl"):
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    (tmp_path / "service.md").write_text("")
    text = (UNITS / "bpflinkd.service").read_text()
    text = text.replace("@BINDIR@", str(tmp_path)).replace("@DOCDIR@", str(tmp_path))
    place = tmp_path / "bpflinkd.service"
    place.write_text(text)
    return place


def settings(name: str) -> list[str]:
    """What the unit says of one setting."""
    text = (UNITS / "bpflinkd.service").read_text()
    return [word for value in re.findall(rf"^{name}=(.*)$", text, re.MULTILINE) for word in value.split()]


def test_systemd_finds_nothing_wrong(unit: Path) -> None:
    assert run("systemd-analyze", "verify", "--man=no", unit) == ""


def test_exposure_does_not_grow(unit: Path) -> None:
    said = run("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
    found = re.search(r"Overall exposure level for bpflinkd\.service: ([0-9.]+)", said)
    assert found is not None
    assert float(found[1]) <= MOST_EXPOSED


def test_nothing_that_comes_after_the_network_or_with_the_bus_is_waited_for(unit: Path) -> None:
    """As systemd itself resolves it: with all that settings bring along."""
    said = run("systemd-analyze", "verify", "--man=no", unit, SYSTEMD_LOG_LEVEL="debug")
    about = said.partition("-> Unit bpflinkd.service:")[2].partition("-> Unit ")[0]
    waited_for = set(re.findall(r"^\t\t(?:After|Requires|Requisite|BindsTo): (\S+)", about, re.MULTILINE))
    assert "local-fs.target" in waited_for
    early = {"basic.target", "sysinit.target", "sockets.target", "network-pre.target", "network.target"}
    assert not waited_for & early
    assert not [name for name in waited_for if "dbus" in name]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        pytest.param("Type", "notify", id="it tells when it is ready"),
        pytest.param("StartLimitIntervalSec", "0", id="it never gives up"),
        pytest.param("OOMPolicy", "continue", id="a compiler out of memory does not take it along"),
        pytest.param("Before", "network-pre.target", id="programs are there before the first packet"),
        pytest.param("ReadWritePaths", str(Config().bpffs.parent), id="pins can be made"),
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
        ("ProtectKernelTunables", "closes the bpffs and /proc/kallsyms"),
        ("ProtectKernelModules", "hides the headers of the kernel"),
        ("ProtectKernelLogs", "takes CAP_SYSLOG"),
        ("RestrictRealtime", "forbids SCHED_FIFO"),
        ("PrivateNetwork", "hides the interfaces"),
        ("PrivateUsers", "capabilities would not count"),
        ("BusName", "brings Requires=dbus.socket in some versions"),
    ],
)
def test_the_unit_does_not_say(setting: str, reason: str) -> None:
    assert settings(setting) == [], reason


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


def test_only_root_may_own_the_name() -> None:
    policies = ET.parse(UNITS / "org.bpflinkd1.conf").getroot().findall("policy")
    owners = {policy.get("user") for policy in policies if policy.find("allow[@own]") is not None}
    assert owners == {"root"}


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
