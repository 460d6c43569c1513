"""What tests do on the guest: the service, links, counters, traffic."""

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from integration.service.disk import BESIDE
from integration.service.guest import Done, Guest

SERVICE: Final = "bpflinkd.service"
COUNT: Final = f"{BESIDE}/count.o"
KPROBE: Final = f"{BESIDE}/kprobe.o"
CTL: Final = "/usr/bin/bpflinkctl"
_DROP_INS: Final = f"/run/systemd/system/{SERVICE}.d"
_CONFIG: Final = "/etc/bpflinkd"
_RULES: Final = "/etc/polkit-1/rules.d/40-test.rules"
NOBODY: Final = "nobody"


@dataclass
class Traffic:
    """How many frames went out, and how many of them past the hook; known when the traffic has ended."""

    sent: int = 0
    passed: int = 0


class Host:
    """One guest, as its administrator sees it."""

    _numbers = itertools.count(1)

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.run = guest.run
        self._undo = contextlib.ExitStack()

    # The service

    def ctl(self, *words: str, check: bool = True, user: str = "root", seconds: float = 150) -> Done:
        """`bpflinkctl`, run by a user with all of its groups."""
        return self.run(*_as(user), CTL, *words, check=check, seconds=seconds)

    def ctl_in_unit(self, unit: str, user: str, *words: str) -> Done:
        """The same as the process of a service, to its end."""
        run = ("systemd-run", "--quiet", f"--unit={unit}", f"--uid={user}", "--collect", "--wait", "--pipe")
        return self.run(*run, CTL, *words, check=False)

    def ctl_typing(self, user: str, password: str, *words: str) -> Done:
        """The same on a terminal, where whoever sits there answers one question for a password."""
        terminal = ("/usr/bin/python3", "-I", f"{BESIDE}/terminal.py", password)
        return self.run(*_as(user), *terminal, CTL, *words, check=False, seconds=300)

    def ctl_that_stays(self, user: str, *words: str) -> str:
        """The same in the background; returns the unit that it is in. Ended after the test."""
        unit = f"stays-{next(self._numbers)}.service"
        self.undo("systemctl", "stop", unit)
        run = ("systemd-run", "--quiet", f"--unit={unit}", f"--uid={user}", "--collect")
        self.run(*run, CTL, *words)
        return unit

    def links(self) -> dict[str, dict[str, Any]]:
        """The link documents by name."""
        found = json.loads(self.ctl("list", "--json").stdout)["links"]
        return {link["name"]: link for link in found}

    def link(self, name: str) -> dict[str, Any]:
        """One link document."""
        return dict(json.loads(self.ctl("show", name, "--json").stdout))

    def until_active(self, name: str, seconds: float = 60) -> dict[str, Any]:
        """Wait until a link is active; returns its document."""
        found: dict[str, Any] = {}

        def active() -> bool:
            found.update(self.links().get(name, {}))
            return found.get("state") == "active"

        until(active, f"{name} is active", seconds=seconds)
        return found

    def attach(self, name: str, target: str, program: str = "count_new", *options: str) -> dict[str, Any]:
        """Attach a program of count.bpf.c; returns the link document. Detached after the test."""
        self.undo("bpflinkctl", "detach", name)
        self.ctl("attach", name, target, "--object", COUNT, "--program", program, *options)
        return self.link(name)

    def unit(self, *properties: str, unit: str = SERVICE) -> dict[str, str]:
        """Properties of a unit."""
        words = [f"--property={name}" for name in properties]
        shown = self.run("systemctl", "show", *words, unit).stdout
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    @property
    def main_pid(self) -> int:
        """The daemon's process, 0 where there is none."""
        return int(self.unit("MainPID")["MainPID"])

    def signal(self, pid: int, name: str) -> None:
        """Send a signal, by the shell: the guest has no kill of its own."""
        self.run("sh", "-c", f"kill -{name} {pid}")

    def until_another_runs(self, pid: int, seconds: float = 150) -> int:
        """Wait until systemd has started another daemon that is ready; returns its pid."""
        found = pid

        def another() -> bool:
            nonlocal found
            shown = self.unit("MainPID", "ActiveState")
            found = int(shown["MainPID"])
            return shown["ActiveState"] == "active" and found not in {0, pid}

        until(another, "another daemon runs", seconds=seconds)
        return found

    def ensure_running(self) -> None:
        """Whatever the test before did: the service runs as it was installed."""
        forget = f"if [ -d {_DROP_INS} ]; then rm -r {_DROP_INS}; systemctl daemon-reload; fi"
        self.run("sh", "-c", f"{forget}; systemctl reset-failed {SERVICE}; systemctl start {SERVICE}")

    def tidy(self) -> None:
        """Undo what this test did; a failure here must not hide the one before."""
        self.run("systemctl", "start", SERVICE, check=False)
        self._undo.close()

    def undo(self, *command: str) -> None:
        """Run this after the test, whether it succeeds or not."""
        self._undo.callback(self.run, *command, check=False)

    def drop_in(self, text: str) -> None:
        """Change the unit until the next test."""
        self.run("mkdir", "-p", _DROP_INS)
        self.write(f"{_DROP_INS}/test.conf", text)
        self.run("systemctl", "daemon-reload")

    def write(self, path: str, text: str) -> None:
        """Write a file that stays."""
        self.run("tee", path, given=text)

    def declare(self, file: str, text: str) -> None:
        """Write a file of links.d; removed, and forgotten by the daemon, after the test."""
        self._configure(f"{_CONFIG}/links.d", file, text)

    def grant(self, file: str, text: str) -> None:
        """Write a file of grants.d, and have it read; removed, and in force no more, after the test."""
        self._configure(f"{_CONFIG}/grants.d", file, text)
        self.run("systemctl", "reload", SERVICE)

    def _configure(self, directory: str, file: str, text: str) -> None:
        path = f"{directory}/{file}"
        self.undo("systemctl", "reload", SERVICE)
        self.undo("rm", "-f", path)
        self.run("mkdir", "-p", directory)
        self.write(path, text)

    def polkit_rules(self, text: str) -> None:
        """Rules of the administrator, in JavaScript; removed after the test."""
        self.undo("systemctl", "restart", "polkit.service")
        self.undo("rm", "-f", _RULES)
        self.write(_RULES, text)
        self.run("systemctl", "restart", "polkit.service")

    # Packets

    def wire(self) -> tuple[str, str]:
        """A fresh veth pair, both up: the end for hooks, and the end to send from. Removed after the test."""
        number = next(self._numbers)
        ends = (f"hook{number}", f"send{number}")
        script = "ip link add $0 type veth peer name $1 && ip link set $0 up && ip link set $1 up"
        self.run("sh", "-c", script, *ends)
        self.undo("ip", "link", "del", ends[0])
        return ends

    @contextlib.contextmanager
    def traffic(self, wire: tuple[str, str]) -> Iterator[Traffic]:
        """Frames over a wire until the context ends."""
        hook, sender = wire
        name = f"traffic-{next(self._numbers)}"
        result = f"/run/{name}.json"
        script = f"{BESIDE}/traffic.py"
        words = ("--quiet", f"--unit={name}", "--collect", "--property=Type=notify")
        self.run("systemd-run", *words, "/usr/bin/python3", "-I", script, sender, hook, "0", result)
        found = Traffic()
        try:
            yield found
        finally:
            self.run("systemctl", "stop", name)
        self.read_traffic(result, found)

    def read_traffic(self, result: str, found: Traffic | None = None) -> Traffic:
        """What traffic.py wrote."""
        found = found or Traffic()
        told = json.loads(self.run("cat", result).stdout)
        found.sent, found.passed = told["sent"], told["passed"]
        return found

    def counter(self, link: dict[str, Any], name: str = "counters") -> Callable[[], int]:
        """Reads slot 0 of a link's map, by id: whatever becomes of its pins."""
        pin = f"{link['pins']}/maps/{name}"
        shown = json.loads(self.run("bpftool", "--json", "map", "show", "pinned", pin).stdout)

        def read() -> int:
            words = ("bpftool", "--json", "map", "lookup", "id", str(shown["id"]), "key", "0", "0", "0", "0")
            value = json.loads(self.run(*words).stdout)["value"]
            return int.from_bytes(bytes(int(byte, 16) for byte in value), "little")

        return read

    # Journal

    def journal_mark(self) -> str:
        """Where the journal ends now."""
        shown = self.run("journalctl", "--no-pager", "-n", "0", "--show-cursor").stdout
        return shown.partition("-- cursor: ")[2].strip()

    def journal(self, mark: str, **fields: str) -> list[dict[str, Any]]:
        """The entries since a mark that have these fields."""
        self.run("journalctl", "--sync")
        # Chosen here: journalctl 252 leaves out the first of those that match after a cursor.
        words = ("--no-pager", "-o", "json", f"--after-cursor={mark}")
        found = [json.loads(line) for line in self.run("journalctl", *words).stdout.splitlines()]
        return [entry for entry in found if fields.items() <= entry.items()]


def _as(user: str) -> tuple[str, ...]:
    if user == "root":
        return ()
    # Debian calls the group of nobody otherwise.
    group = {"nobody": "nogroup"}.get(user, user)
    return ("setpriv", f"--reuid={user}", f"--regid={group}", "--init-groups")


def declaration(name: str, target: str, program: str = "count_new") -> str:
    """A table of links.d."""
    return (
        f'[[link]]\nname = "{name}"\ntarget = "{target}"\nmode = "generic"\n'
        f'program = {{ object = "{COUNT}", name = "{program}" }}\n'
    )


def until(condition: Callable[[], bool], what: str, *, seconds: float) -> None:
    """Wait for something that must come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(1)
