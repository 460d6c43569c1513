"""Every example of docs/client.md, built as its first lines say, against a real daemon.

Those that send files run as a user who is not root and has a grant: from such a user the daemon takes
sealed copies only.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab import Daemon
from tests.lab.compiled import program
from tests.lab.daemon import BINARY
from tests.lab.world import end, run, until

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
CTL = BINARY.with_name("bpflinkctl")
USER = "nobody"
GRANT = f"""
[[grant]]
user = "{USER}"
targets = ["xdp:v0"]
"""
GO_SOURCES = Path("/usr/share/gocode/src")
"""Where Debian puts the Go modules that it packages."""


def _needs(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def _environment(daemon: Daemon) -> dict[str, str]:
    return {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": daemon.world.bus}


@contextmanager
def _events(daemon: Daemon) -> Iterator[Path]:
    """A file to which every event goes, as JSON lines."""
    log = daemon.world.dir / "events"
    with log.open("w") as file:
        follower = subprocess.Popen(
            [CTL, "--bus", daemon.world.bus, "--json", "events"], stdout=file, text=True
        )
    try:
        # It follows from some time on: links come and go until it has told one.
        def told() -> bool:
            run(CTL, "--bus", daemon.world.bus, "attach", "first", "xdp:v1", "--builtin", "pass")
            run(CTL, "--bus", daemon.world.bus, "detach", "first")
            return bool(log.read_text())

        until(told, "the events are followed", seconds=30)
        yield log
        follower.send_signal(signal.SIGINT)
        follower.wait(10)
    finally:
        end(follower)


def _check(daemon: Daemon, command: list[str | Path], said: list[str], programs: tuple[str, str]) -> None:
    """Run an example: what it says, and what the daemon says of it."""
    with _events(daemon) as log:
        done = subprocess.run(
            command,
            env=_environment(daemon),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == said
        # Signals follow the answer.
        until(lambda: '"example", "reason"' in log.read_text(), "the end is told")
    events = [
        event for line in log.read_text().splitlines() if (event := json.loads(line))["name"] == "example"
    ]
    assert [event["event"] for event in events] == ["link_added", "program_replaced", "link_removed"]
    swapped = events[1]
    assert (swapped["old"]["name"], swapped["new"]["name"]) == programs
    assert daemon.links() == {}


def _as_user(daemon: Daemon, command: str | Path, *words: str) -> list[str | Path]:
    """A command line of an example, run by a user with a grant, who can read the object."""
    grants = daemon.world.dir / "etc/grants.d"
    grants.mkdir(parents=True, exist_ok=True)
    (grants / "example.toml").write_text(GRANT)
    daemon.call("Reload")
    objects = shutil.copy(program("count"), daemon.world.dir / "count.o")
    return ["setpriv", f"--reuid={USER}", "--clear-groups", command, *words, "v0", objects, *PROGRAMS]


SAID = ["attached count_old", "generation 2 runs count_new", "detached"]
PROGRAMS = ("count_old", "count_new")


def test_python(daemon: Daemon) -> None:
    command = _as_user(daemon, sys.executable, str(EXAMPLES / "python/filter.py"))
    _check(daemon, command, SAID, PROGRAMS)


def _build_c(directory: Path) -> Path:
    _needs("clang", "pkg-config")
    if subprocess.run(["pkg-config", "--exists", "libsystemd"], check=False).returncode != 0:
        pytest.skip("libsystemd-dev is not installed")
    flags = run("pkg-config", "--cflags", "--libs", "libsystemd").split()
    built = directory / "filter"
    run("clang", "-Wall", "-Wextra", "-Werror", EXAMPLES / "c/filter.c", "-o", built, *flags)
    return built


def _build_go(directory: Path) -> Path:
    _needs("go")
    modules = {
        "github.com/godbus/dbus/v5": GO_SOURCES / "github.com/godbus/dbus",
        "golang.org/x/sys": GO_SOURCES / "golang.org/x/sys",
    }
    for module, place in modules.items():
        if not place.exists():
            pytest.skip(f"Debian's package of the Go module {module} is not installed")
    source = directory / "go"
    shutil.copytree(EXAMPLES / "go", source)
    environment = {
        **os.environ,
        "GOFLAGS": "-mod=mod",
        "GOPROXY": "off",
        "GOCACHE": str(directory / "cache"),
        "CGO_ENABLED": "0",
    }
    replaced = [f"-replace={module}={place}" for module, place in modules.items()]
    run("go", "mod", "edit", *replaced, cwd=source, env=environment)
    run("go", "vet", ".", cwd=source, env=environment)
    run("go", "build", "-o", directory / "filter", ".", cwd=source, env=environment)
    return directory / "filter"


def test_c(daemon: Daemon) -> None:
    _check(daemon, _as_user(daemon, _build_c(daemon.world.dir)), SAID, PROGRAMS)


@pytest.mark.timeout(300)
def test_go(daemon: Daemon) -> None:
    _check(daemon, _as_user(daemon, _build_go(daemon.world.dir)), SAID, PROGRAMS)


def test_shell(daemon: Daemon) -> None:
    _needs("busctl", "bpftool")
    pin = daemon.world.bpffs / "example"
    run("bpftool", "prog", "load", program("single"), pin)
    said = ["attached pass", f"generation 2 runs {pin}", "detached"]
    command: list[str | Path] = [EXAMPLES / "shell/filter.sh", "v0", pin]
    _check(daemon, command, said, ("pass_xdp", "only_one"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param(["nope0"], "HookGone", id="no such interface"),
        pytest.param(["v0", "/nope.o"], "No such file", id="no such file"),
    ],
)
@pytest.mark.parametrize("language", ["python", "c"])
def test_a_refusal_is_told_and_ends_it(
    daemon: Daemon, tmp_path: Path, language: str, words: list[str], says: str
) -> None:
    command = [_build_c(tmp_path)] if language == "c" else [sys.executable, EXAMPLES / "python/filter.py"]
    given = [*words, *["v0", str(program("count")), *PROGRAMS][len(words) :]]
    done = subprocess.run(
        [*command, *given], env=_environment(daemon), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert daemon.links() == {}
