"""Units, by the cgroups of their processes: what systemd makes, and what others make to look like it."""

import pytest

from bpflinkd.core import units

LONG = "a" * (255 - len(".service"))


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        pytest.param("ssh.service", True, id="a service"),
        pytest.param("user@1000.service", True, id="an instance"),
        pytest.param("session-3.scope", True, id="a scope"),
        pytest.param("dev-disk-by\\x2duuid-1.swap", True, id="an escape in it"),
        pytest.param("a.b.c.service", True, id="dots"),
        pytest.param("a@b@c.service", True, id="an instance named with an at"),
        pytest.param("-.slice", True, id="the root slice"),
        pytest.param(f"{LONG}.service", True, id="the longest"),
        pytest.param(f"{LONG}a.service", False, id="longer"),
        pytest.param("user@.service", False, id="a template"),
        pytest.param("@1.service", False, id="an instance of nothing"),
        pytest.param(".service", False, id="a type alone"),
        pytest.param("ssh", False, id="no type"),
        pytest.param("ssh.server", False, id="another type"),
        pytest.param("ssh.service\n", False, id="a newline"),
        pytest.param("ssh.service (deleted)", False, id="a deleted cgroup"),
        pytest.param("a b.service", False, id="a space"),
        pytest.param("ä.service", False, id="a letter that is not ASCII"),
        pytest.param("\u0661.service", False, id="a digit that is not ASCII"),
        pytest.param("", False, id="nothing"),
    ],
)
def test_a_unit_can_be_named(name: str, valid: bool) -> None:
    assert units.is_valid(name) is valid


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        pytest.param("/system.slice/tw-agent.service", "tw-agent.service", id="a service"),
        pytest.param("/init.scope", "init.scope", id="the service manager itself"),
        pytest.param(
            "/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", id="an instance"
        ),
        pytest.param("/system.slice/_cgroup.service", "cgroup.service", id="systemd's own escape"),
        pytest.param("/_-odd.slice/__x.service", "_x.service", id="an escaped underscore"),
        pytest.param("/user.slice/user-1000.slice/session-3.scope", "session-3.scope", id="a login"),
        pytest.param(
            "/machine.slice/machine-qemu\\x2d1.scope", "machine-qemu\\x2d1.scope", id="a backslash is kept"
        ),
        pytest.param(
            "/user.slice/user-1000.slice/user@1000.service/app.slice/tw-agent.service",
            "user@1000.service",
            id="a user's service manager speaks for itself only",
        ),
        pytest.param(
            "/system.slice/ci.service/system.slice/tw-agent.service", "ci.service", id="a delegated subtree"
        ),
        pytest.param(
            "/machine.slice/systemd-nspawn@c.service/payload/system.slice/tw-agent.service",
            "systemd-nspawn@c.service",
            id="a container's service manager",
        ),
        pytest.param(
            "/system.slice/docker-0a1b.scope/init.scope", "docker-0a1b.scope", id="a container's scope"
        ),
        pytest.param("/docker/0a1b/system.slice/tw-agent.service", "", id="a container without a unit"),
        pytest.param(
            "/system.slice/jobs/tw-agent.service", "", id="a part that is no unit hides what follows"
        ),
        pytest.param("/user@.service/tw-agent.service", "", id="so does a template"),
        pytest.param("/a@b.slice/tw-agent.service", "", id="so does an instance of a slice"),
        pytest.param("/.slice/tw-agent.service", "", id="so does a slice without a name"),
        pytest.param("/", "", id="the root"),
        pytest.param("/system.slice", "", id="directly in a slice"),
        pytest.param("/../tw-agent.service", "", id="outside of our cgroup namespace"),
        pytest.param("/../system.slice/tw-agent.service", "", id="outside, below a slice"),
        pytest.param("/system.slice/tw-agent.service (deleted)", "", id="a deleted cgroup"),
        pytest.param(
            "/system.slice/\\012tw-agent.service", "\\012tw-agent.service", id="no escape is undone"
        ),
        pytest.param("/system.slice/tw-agent\\x2eservice", "", id="nor systemd's"),
        pytest.param("", "", id="no path"),
    ],
)
def test_the_unit_of_a_cgroup(path: str, unit: str) -> None:
    assert units.of_cgroup(path) == unit


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        pytest.param(b"0::/system.slice/tw-agent.service\n", "tw-agent.service", id="v2 alone"),
        pytest.param(
            b"2:pids:/x\n1:name=systemd:/user.slice\n0::/system.slice/a.service\n",
            "a.service",
            id="beside v1",
        ),
        pytest.param(b"1:name=systemd:/system.slice/a.service\n", "", id="v1 alone tells nothing"),
        pytest.param(b"1:name=systemd:/system.slice/a.service\n0::/\n", "", id="v2 mounted and not used"),
        pytest.param(b"1:name=0::/system.slice/a.service:/\n0::/\n", "", id="v1 that looks like v2 inside"),
        pytest.param(b"0::/ci.service/x\n0::/a.service\n", "", id="two lines of v2"),
        pytest.param(b"0::/system.slice/\xff.service\n", "", id="bytes that are no text"),
        pytest.param("0::/system.slice/a\u2028.service\n".encode(), "", id="another line separator"),
        pytest.param(b"0::/ci.service/x\r0::/a.service\n", "ci.service", id="a carriage return ends no line"),
        pytest.param(b"", "", id="nothing"),
    ],
)
def test_the_unit_of_a_process(text: bytes, unit: str) -> None:
    assert units.of_process(text) == unit
