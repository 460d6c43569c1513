"""C source that is refused with a sentence, and compilers that are killed or take their time. The kernel has
no part in it, so one kernel is enough."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from integration.conformance.conftest import require, supported
from integration.conformance.kinds import Cgroup, Kind, Kprobe, compiled
from integration.conformance.test_durable import declared, reload
from integration.conformance.test_promises import NAME, hits_of, kernel_objects
from integration.conformance.test_source import COUNTING, source
from tests.lab import Daemon
from tests.lab.daemon import Refused, Source, elf
from tests.lab.declarations import declare
from tests.lab.reboot import after_reboot
from tests.lab.world import until


@pytest.fixture(autouse=True)
def _compiler(daemon: Daemon) -> None:
    require(daemon, "source")


def refused(daemon: Daemon, kind: Kind, program: Source) -> Refused:
    """Attach what must be refused; nothing of it may be left."""
    before = kernel_objects()
    with pytest.raises(Refused) as refusal:
        daemon.attach(NAME, kind.target(), program)
    assert daemon.links() == {}
    assert not daemon.pinned()
    until(lambda: kernel_objects() == before, "nothing is left in the kernel", seconds=20)
    return refusal.value


@pytest.mark.parametrize(
    ("text", "name", "error", "says"),
    [
        pytest.param("int f(void *ctx)\n{ retrun 1; }\n", None, "BadProgram", "source.c:2:3", id="a typo"),
        pytest.param("int f(void *ctx) { return 1; }", "g", "BadProgram", "it has: f", id="no function g"),
        pytest.param('#include "/dev/zero"\n', None, "BadProgram", "", id="includes dev zero"),
        pytest.param("#include __FILE__\n", None, "BadProgram", "", id="includes itself"),
        pytest.param(
            "int f(struct __sk_buff *ctx) { return *(volatile int *)8; }\n",
            None,
            "VerifierRejected",
            "verifier",
            id="unsafe",
        ),
        pytest.param("", None, "BadProgram", "empty", id="empty"),
    ],
)
def test_bad_source_is_a_sentence(
    daemon: Daemon, tmp_path: Path, text: str, name: str | None, error: str, says: str
) -> None:
    refusal = refused(daemon, Cgroup(daemon.world), source(tmp_path, text, name))
    assert refusal.name == error
    assert says in refusal.message


def test_what_only_root_may_read_is_not_quoted(daemon: Daemon, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("hunter2 is the password\n")
    for place in (tmp_path, *tmp_path.parents[:2]):  # pytest's own; what they are in is not ours
        place.chmod(0o755)
    refusal = refused(daemon, Cgroup(daemon.world), source(tmp_path, f'#include "{secret}"\n'))
    assert refusal.name == "BadProgram"
    assert "Permission denied" in refusal.message
    assert "hunter2" not in refusal.message


def test_a_gigabyte_is_refused_at_once(daemon: Daemon, tmp_path: Path) -> None:
    big = tmp_path / "big.c"
    with big.open("wb") as file:
        file.truncate(1 << 30)
    refusal = refused(daemon, Cgroup(daemon.world), Source(source=str(big)))
    assert (refusal.name, "1073741824 bytes" in refusal.message) == ("BadProgram", True)


def helper_of(daemon: Daemon) -> int | None:
    """The process id of the daemon's compiler, while there is one."""
    assert daemon.process
    for entry in Path("/proc").iterdir():
        try:
            status = (entry / "status").read_text()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if f"\nPPid:\t{daemon.process.pid}\n" in status and b"/proc/self/fd/" in command:
            return int(entry.name)
    return None


def attaching(daemon: Daemon, kind: Kind, path: Path) -> "subprocess.Popen[str]":
    """An attach that takes long, by another process."""
    target = kind.target()
    words = [f"cgroup:{target['cgroup']}", "--attach-type", target["attach_type"], "--source", str(path)]
    control = Path(daemon.command()[2]).with_name("bpflinkctl")
    return subprocess.Popen(
        [control, "--bus", daemon.world.bus, "attach", NAME, *words], stderr=subprocess.PIPE, text=True
    )


def test_others_are_served_while_it_compiles_and_a_killed_compiler_is_an_error(
    daemon: Daemon, tmp_path: Path
) -> None:
    kind = Cgroup(daemon.world)
    path = tmp_path / "slow.c"
    path.write_text(COUNTING["cgroup"])
    client = attaching(daemon, kind, path)
    until(lambda: helper_of(daemon) is not None, "the compiler runs", seconds=60)
    helper = helper_of(daemon)
    assert helper is not None
    begun = time.monotonic()
    assert daemon.links() == {}
    other = Cgroup(daemon.world)
    daemon.attach("beside", other.target(), Source(builtin="pass"))
    served = time.monotonic() - begun
    assert helper_of(daemon) == helper, f"the compiler ended within {served:.1f} s: nothing was shown"
    os.kill(helper, signal.SIGKILL)
    _, told = client.communicate(timeout=60)
    assert client.returncode != 0
    assert "compiler" in told
    assert set(daemon.links()) == {"beside"}


def test_a_killed_daemon_takes_the_compiler_along(daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "slow.c"
    path.write_text(COUNTING["cgroup"])
    client = attaching(daemon, Cgroup(daemon.world), path)
    until(lambda: helper_of(daemon) is not None, "the compiler runs", seconds=60)
    helper = helper_of(daemon)
    daemon.kill()
    until(lambda: not Path(f"/proc/{helper}").exists(), "the compiler ends too", seconds=20)
    client.communicate(timeout=60)
    assert client.returncode != 0
    daemon.start()
    assert daemon.links() == {}


def test_source_is_compiled_beside_the_worker(daemon: Daemon, tmp_path: Path) -> None:
    """Declared, and again after a reboot: other changes do not wait for the compiler."""
    require(daemon, "kprobe")
    kind = Kprobe(daemon.world)
    text = tmp_path / "count.c"
    text.write_text(COUNTING["kprobe"])
    file = declare(daemon.world, "a.toml", declared(kind, f'source = "{text}"'))
    try:
        assert reload(daemon) == {"attached": 1}
        after_reboot(daemon)
        assert daemon.link(NAME)["State"] == "failed"
        assert "is being loaded again from source" in daemon.link(NAME)["Reason"]
        other = supported(daemon)["cgroup"]
        daemon.attach("meanwhile", other.target(), elf(compiled(other.program)))
        assert daemon.link(NAME)["State"] == "failed", "the attach did not wait for the compiler"
        until(lambda: daemon.state(NAME) == "active", "the source is compiled", seconds=200)
        hits = hits_of(daemon)
        with kind.under_load() as load:
            pass
        assert hits[0] == load.events
    finally:
        file.unlink()
        reload(daemon)
