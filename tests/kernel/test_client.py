"""`bpflinkd.client` against the real daemon: a life, errors by class, links that live with a client."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bpflinkd.client import (
    Builtin,
    Client,
    HookBusy,
    KernelLink,
    NetlinkXdp,
    NoSuchLink,
    NotOwner,
    Object,
    Pinned,
    PinnedLink,
    ProgramFd,
    ProgramId,
    StaleGeneration,
    Unit,
    VerifierRejected,
)
from bpflinkd.kernel import libbpf
from tests.kernel.test_adopt import stranger_link
from tests.kernel.test_watch import netlink_attach
from tests.lab import Daemon, World
from tests.lab.compiled import program
from tests.lab.world import run, until

COUNT = Object(program("count"), "count_old")


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.world.bus) as made:
        yield made


def test_a_life(client: Client) -> None:
    assert client.attach("edge", "xdp:v0", Object(program("single"))) == "/org/bpflinkd1/link/edge"
    assert client.replace("edge", COUNT, expect=1) == 2
    link = client.link("edge")
    assert link["Program"][1] == "count_old"
    assert link["Owner"] == "user:0"
    uid, pid, _unit, exe = link["By"]
    assert (uid, pid) == (0, os.getpid())
    assert exe == os.readlink("/proc/self/exe")
    (row,) = client.rows()
    assert (row.name, row.owner, row.generation) == ("edge", "user:0", 2)
    assert client.replace("edge", ProgramId(link["Program"][0])) == 3
    client.detach("edge")
    assert client.rows() == []


def test_an_object_from_memory(client: Client) -> None:
    client.attach("edge", "xdp:v0", Object(program("count").read_bytes(), "count_new"))
    kept = client.program_file("edge")
    assert (kept.kind, kept.program) == ("object", "count_new")
    assert kept.data == program("count").read_bytes()


def test_errors_are_caught_by_class(daemon: Daemon, client: Client) -> None:
    with pytest.raises(NoSuchLink):
        client.link("edge")
    with pytest.raises(NoSuchLink):
        client.detach("edge")
    client.attach("edge", "xdp:v0", Builtin("pass"))
    with pytest.raises(StaleGeneration):
        client.replace("edge", Builtin("pass"), expect=7)
    netlink_attach(daemon.world, "v1")
    with pytest.raises(HookBusy):
        client.attach("other", "xdp:v1", Builtin("pass"))


def test_the_verifiers_log_is_whole(client: Client) -> None:
    with pytest.raises(VerifierRejected) as refused:
        client.attach("edge", "xdp:v0", Object(program("count"), "verifier_hates"))
    assert "processed" in refused.value.log


_HOLDER = """
import sys
from bpflinkd.client import Builtin, Client, Object
client = Client(sys.argv[1])
{}
print("holding", flush=True)
client.hold("edge")
"""


def _holder(daemon: Daemon, statement: str) -> "subprocess.Popen[str]":
    """A process that holds the link `edge`."""
    words = (sys.executable, "-c", _HOLDER.format(statement), daemon.world.bus)
    started = daemon.world.process(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert started.stdout is not None
    assert started.stdout.readline() == "holding\n"
    return started


def test_a_link_ends_with_the_client_that_holds_it(daemon: Daemon, client: Client) -> None:
    holder = _holder(daemon, 'client.attach("edge", "xdp:v0", Builtin("pass"), lifetime="owner", grace=0.5)')
    held = client.link("edge")["Hold"]
    assert held["grace"] == 500_000
    assert "until" not in held
    holder.kill()
    until(lambda: "until" in client.link("edge")["Hold"], "the holder is missed")
    until(lambda: client.rows() == [], "the link ends")


def test_a_claim_takes_over_from_a_living_holder_without_a_gap(daemon: Daemon, client: Client) -> None:
    first = _holder(daemon, 'client.attach("edge", "xdp:v0", Builtin("pass"), lifetime="owner", grace=0.2)')
    kernel_id = client.link("edge")["KernelLinkId"]
    second = _holder(daemon, 'client.claim("edge")')
    assert first.wait(10) == 1
    assert first.stderr is not None
    assert "Released: link 'edge' is held by" in first.stderr.read()
    assert client.link("edge")["KernelLinkId"] == kernel_id
    client.detach("edge")
    assert second.wait(10) == 1
    assert second.stderr is not None
    assert "NoSuchLink: link 'edge' has ended" in second.stderr.read()


def test_a_holder_stays_while_the_daemon_is_away(daemon: Daemon, client: Client) -> None:
    holder = _holder(daemon, 'client.attach("edge", "xdp:v0", Builtin("pass"), lifetime="owner", grace=60)')
    before = client.link("edge")["Hold"]["holder"]
    daemon.restart()
    held = client.link("edge")["Hold"]
    assert held["holder"] == before
    assert "until" not in held
    assert holder.poll() is None


def test_the_fallback_takes_the_place_of_a_program_whose_holder_went(daemon: Daemon, client: Client) -> None:
    holder = _holder(
        daemon,
        'client.attach("edge", "xdp:v0", Builtin("pass"), lifetime="owner", grace=0,'
        f" fallback=Object({str(program('single'))!r}))",
    )
    kernel_id = client.link("edge")["KernelLinkId"]
    holder.kill()
    until(lambda: client.link("edge")["Program"][1] == "only_one", "the fallback runs")
    assert client.link("edge")["KernelLinkId"] == kernel_id


def test_ownership_goes_from_hand_to_hand(client: Client) -> None:
    client.attach("edge", "xdp:v0", Builtin("pass"), owner=Unit("nobody-has-this.service"), force=True)
    assert client.link("edge")["Owner"] == "unit:nobody-has-this.service"
    with pytest.raises(NotOwner):
        client.replace("edge", Builtin("pass"))
    with pytest.raises(NotOwner):
        client.detach("edge")
    assert client.replace("edge", Builtin("pass"), force=True) == 2
    client.transfer("edge", "user:root", force=True)
    client.detach("edge")


def test_what_others_attached_is_adopted(daemon: Daemon, client: Client) -> None:
    number, pin = stranger_link(daemon.world, interface="v1")
    client.adopt("by-id", KernelLink(number))
    assert client.link("by-id")["KernelLinkId"] == number
    pin.unlink()
    pin.with_name(f"{pin.name}_program").unlink()
    path = daemon.world.cgroup()
    number, pin = stranger_link(daemon.world, cgroup=str(World.cgroup_dir(path)))
    client.adopt("by-pin", PinnedLink(str(pin)), policy="restore", owner="unit:a.service", force=True)
    link = client.link("by-pin")
    assert (link["KernelLinkId"], link["Policy"], link["Owner"]) == (number, "restore", "unit:a.service")
    netlink_attach(daemon.world, "v0")
    client.adopt("from-netlink", NetlinkXdp("v0"))
    link = client.link("from-netlink")
    assert (link["State"], link["Program"][1]) == ("active", "only_one")
    assert "empty for" in link["Message"]


def test_a_descriptor_of_a_loaded_program(daemon: Daemon, client: Client) -> None:
    pin = daemon.world.bpffs / "loaded"
    run("bpftool", "prog", "load", program("single"), pin)
    fd = libbpf.obj_get(str(pin))
    try:
        client.attach("edge", "xdp:v0", ProgramFd(fd))
        os.fstat(fd)
    finally:
        os.close(fd)
    assert client.link("edge")["Program"][1] == "only_one"
    assert client.replace("edge", Pinned(str(pin))) == 2


def test_two_clients_in_one_process_each_hear_their_own_answers(daemon: Daemon) -> None:
    with Client(daemon.world.bus) as one, Client(daemon.world.bus) as other:
        one.attach("edge", "xdp:v0", Builtin("pass"), lifetime="owner", grace=0)
        assert other.link("edge")["Hold"]["holder"] != ""
        other.claim("edge")
        one.close()
        assert other.link("edge")["State"] == "active"
        assert "until" not in other.link("edge")["Hold"]
