"""C source by bcc: attached and swapped for each kind, and refused with a sentence."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from integration.conformance.conftest import require
from integration.conformance.kinds import Cgroup, Kind, Kprobe, Xdp
from integration.conformance.test_promises import NAME, hits_of, kernel_objects
from tests.lab import Daemon
from tests.lab.daemon import Refused, Source
from tests.lab.world import until

COUNTING = {
    "xdp": """
BPF_ARRAY(hits, u64, 2);
int count(struct xdp_md *ctx)
{
    unsigned char *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    if (data + 14 <= end && *(u16 *)(data + 12) == 0xb588)
        hits.increment(0);
    return XDP_PASS;
}
""",
    "cgroup": """
BPF_ARRAY(hits, u64, 2);
int count(struct __sk_buff *skb)
{
    hits.increment(0);
    return 1;
}
""",
    # By this name bcc would attach it by itself, were it not kept from that.
    "kprobe": """
BPF_ARRAY(hits, u64, 2);
int kprobe____x64_sys_sched_rr_get_interval(struct pt_regs *ctx)
{
    hits.increment(0);
    return 0;
}
""",
}
KINDS: dict[str, type[Kind]] = {"xdp": Xdp, "cgroup": Cgroup, "kprobe": Kprobe}


@pytest.fixture(autouse=True)
def _compiler(daemon: Daemon) -> None:
    require(daemon, "source")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, daemon: Daemon) -> Kind:
    require(daemon, request.param)
    return KINDS[request.param](daemon.world)


def source(tmp_path: Path, text: str, name: str | None = None) -> Source:
    """C as it goes into a message."""
    file = tmp_path / "source.c"
    file.write_text(text)
    return Source(source=str(file)) if name is None else Source(source=str(file), name=name)


def test_source(daemon: Daemon, kind: Kind, tmp_path: Path) -> None:
    """Attach, count, swap, count; nothing is attached but what we attach."""
    text = COUNTING[kind.feature]
    daemon.attach(NAME, kind.target(), source(tmp_path, text))
    old = hits_of(daemon)
    with kind.under_load() as load:
        assert daemon.replace(NAME, source(tmp_path, text + "\n")) == 2
    new = hits_of(daemon)
    assert old[0] + new[0] == load.events
    assert daemon.link(NAME)["Source"][0] == "source"


def refused(daemon: Daemon, kind: Kind, program: Source) -> Refused:
    """Attach what must be refused; nothing of it may be left."""
    before = kernel_objects()
    with pytest.raises(Refused) as refusal:
        daemon.attach(NAME, kind.target(), program)
    assert daemon.links() == {}
    assert list(daemon.pins.iterdir()) == []
    until(lambda: kernel_objects() == before, "nothing is left in the kernel", seconds=20)
    return refusal.value


@pytest.mark.parametrize(
    ("text", "name", "error", "says"),
    [
        pytest.param("int f(void *ctx)\n{ retrun 1; }\n", None, "BadProgram", "source.c:2:3", id="a typo"),
        pytest.param("int f(void *ctx) { return 1; }", "g", "BadProgram", "it has: f", id="no function g"),
        pytest.param('#include "/dev/zero"\n', None, "BadProgram", "", id="includes dev zero"),
        pytest.param("#include __FILE__\n", None, "BadProgram", "", id="includes itself"),
        pytest.param('#include "/etc/shadow"\n', None, "BadProgram", "/etc/shadow", id="includes a secret"),
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
    assert "root:" not in refusal.message


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
    assert client.stderr
    told = client.stderr.read()
    assert client.wait(60) != 0
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
    assert client.wait(60) != 0
    assert client.stderr
    client.stderr.close()
    daemon.start()
    assert daemon.links() == {}
