"""C source by bcc: attached and swapped for each kind, and refused with a sentence."""

from pathlib import Path

import pytest

from integration.conformance.conftest import require
from integration.conformance.kinds import Cgroup, Kind, Kprobe, Xdp, compiled
from integration.conformance.test_promises import NAME, hits_of
from tests.lab import Daemon
from tests.lab.daemon import Source, elf

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
KINDS: dict[str, type[Kind]] = {"xdp native": Xdp, "cgroup": Cgroup, "kprobe": Kprobe}


@pytest.fixture(autouse=True)
def _compiler(daemon: Daemon) -> None:
    require(daemon, "source")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, daemon: Daemon) -> Kind:
    require(daemon, KINDS[request.param].feature)
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
    assert daemon.link(NAME)["Source"][0] == "source"
    old = hits_of(daemon)
    # Under emulation a compile takes 15 s: one kind tells for all that a swap to compiled code is like any.
    new_program = source(tmp_path, text + "\n") if kind.feature == "kprobe" else elf(compiled(kind.program))
    with kind.under_load() as load:
        assert daemon.replace(NAME, new_program) == 2
    new = hits_of(daemon)
    # One counter, carried over: no hit is lost, and none counted twice.
    assert old[0] == new[0] == load.events
