"""Links that files declare: applied at a start and by Reload, and nothing is touched that need not be."""

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from gi.repository import GLib

from bpflinkd.kernel import libbpf
from tests.kernel.test_replace import REPO
from tests.lab import Daemon, World
from tests.lab.compiled import program
from tests.lab.daemon import builtin, by_fd, elf
from tests.lab.declarations import declare, link
from tests.lab.maps import Counters
from tests.lab.reboot import after_reboot
from tests.lab.world import run, until

OLD = f'object = "{program("count")}", name = "count_old"'
NEW = f'object = "{program("count")}", name = "count_new"'
CTL = Path(sys.executable).with_name("bpflinkctl")


def reload(daemon: Daemon) -> tuple[dict[str, int], list[tuple[str, ...]]]:
    """Reload: what was done, and what was refused."""
    done, refused = daemon.call("Reload")
    return {what: number for what, number in done.items() if number}, refused


def in_kernel(daemon: Daemon) -> dict[str, tuple[int, int]]:
    """The kernel's ids of every link and its program."""
    return {name: (link["KernelLinkId"], link["Program"]["id"]) for name, link in daemon.links().items()}


def test_what_is_declared_is_there_when_the_daemon_is(world: World) -> None:
    path = world.cgroup()
    declare(world, "a.toml", link("edge", "xdp:v0", OLD, 'policy = "restore"', 'mode = "generic"'))
    declare(world, "b.toml", link("web", f"cgroup:{path} egress"), link("later", "xdp:later0"))
    links = world.daemon().links()
    assert {name: found["State"] for name, found in links.items()} == {
        "edge": "active",
        "web": "active",
        "later": "waiting",
    }
    edge = links["edge"]
    assert edge["Target"] == {"xdp": "v0", "mode": "generic"}
    assert (edge["Policy"], edge["Lifetime"], edge["Owner"]) == ("restore", "pinned", "user:0")
    assert edge["Origin"] == (str(world.dir / "etc/links.d/a.toml"), "")
    assert edge["Program"]["name"] == "count_old"


def test_a_reload_without_a_change_touches_nothing(world: World) -> None:
    declare(world, "a.toml", link("edge", "xdp:v0", OLD))
    daemon = world.daemon()
    before, links = in_kernel(daemon), daemon.links()
    assert reload(daemon) == ({"unchanged": 1}, [])
    assert in_kernel(daemon) == before
    assert daemon.links() == links
    daemon.restart()
    assert in_kernel(daemon) == before


def test_a_changed_program_is_one_atomic_replace(world: World) -> None:
    world.veth("w0", "w1")
    others = [link(f"other-{n}", f"cgroup:{world.cgroup()} egress") for n in range(5)]
    declare(world, "a.toml", link("edge", "xdp:v0", OLD), *others)
    daemon = world.daemon()
    before = in_kernel(daemon)
    old = Counters(daemon.pins / "edge/maps/counters")
    sender = world.process(
        *world.inside(sys.executable, "-m", "tests.lab.traffic", "v1", "0"),
        cwd=REPO,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert sender.stdout
    sender.stdout.readline()
    declare(world, "a.toml", link("edge", "xdp:v0", NEW), *others)
    assert reload(daemon) == ({"replaced": 1, "unchanged": 5}, [])
    carried = old[0]
    until(lambda: old[0] > carried, "packets reach the new program")
    sent = int(sender.communicate()[0])
    assert old[0] == Counters(daemon.pins / "edge/maps/counters")[0] == sent > carried > 0
    after = in_kernel(daemon)
    assert after["edge"][0] == before["edge"][0], "the link is the same"
    assert {name for name in before if before[name] != after[name]} == {"edge"}
    assert daemon.link("edge")["Generation"] == 2


def test_a_removed_file_detaches_only_what_came_from_it(world: World) -> None:
    world.veth("w0", "w1")
    gone = declare(world, "a.toml", link("edge", "xdp:v0"))
    declare(world, "b.toml", link("other", "xdp:w0"))
    daemon = world.daemon()
    path = world.cgroup()
    daemon.attach("mine", {"cgroup": path, "attach_type": "egress"}, builtin())
    before = in_kernel(daemon)
    gone.unlink()
    assert reload(daemon) == ({"detached": 1, "unchanged": 1}, [])
    assert in_kernel(daemon) == {name: ids for name, ids in before.items() if name != "edge"}
    assert "prog" not in world.ip("link", "show", "v0")


def test_a_bad_file_is_refused_with_its_place_and_leaves_its_links(world: World) -> None:
    world.veth("w0", "w1")
    bad = declare(world, "a.toml", link("edge", "xdp:v0"))
    declare(world, "b.toml", link("other", "xdp:w0"))
    daemon = world.daemon()
    before = in_kernel(daemon)
    bad.write_text(link("edge", "xdp:v0", OLD, 'polcy = "alert"'))
    declare(world, "b.toml", link("other", "xdp:w0", OLD))
    done, refused = reload(daemon)
    assert done == {"replaced": 1}
    ((file, name, sentence, log),) = refused
    assert (file, name, log) == (str(bad), "", "")
    assert sentence.startswith(f"{bad}:5:1: ")
    assert "did you mean policy" in sentence
    assert in_kernel(daemon)["edge"] == before["edge"]
    assert in_kernel(daemon)["other"] != before["other"]
    refusals = daemon.call("Get", "(ss)", ("org.bpflinkd1.Manager", "Refused"), interface=PROPERTIES)
    assert refusals == [sentence]
    bad.write_text("[[link]\n")
    _, ((_, _, sentence, _),) = reload(daemon)
    assert sentence.startswith(f"{bad}:1:")
    assert in_kernel(daemon)["edge"] == before["edge"]


PROPERTIES = "org.freedesktop.DBus.Properties"


def test_a_program_that_the_verifier_refuses_leaves_the_old_one(world: World) -> None:
    world.veth("w0", "w1")
    declare(world, "a.toml", link("edge", "xdp:v0"), link("other", "xdp:w0"))
    daemon = world.daemon()
    before = in_kernel(daemon)
    bad = f'object = "{program("count")}", name = "verifier_hates"'
    declare(world, "a.toml", link("edge", "xdp:v0", bad), link("other", "xdp:w0", OLD))
    done, ((file, name, sentence, log),) = reload(daemon)
    assert done == {"replaced": 1}
    assert (file, name) == (str(world.dir / "etc/links.d/a.toml"), "edge")
    assert sentence.startswith(f"{file}:1: link 'edge': ")
    assert log
    assert in_kernel(daemon)["edge"] == before["edge"]


def test_another_target_is_attached_there(world: World) -> None:
    world.veth("w0", "w1")
    declare(world, "a.toml", link("edge", "xdp:v0", OLD))
    daemon = world.daemon()
    declare(world, "a.toml", link("edge", "xdp:w0", OLD))
    assert reload(daemon) == ({"moved": 1}, [])
    assert daemon.link("edge")["Target"]["xdp"] == "w0"
    assert daemon.state("edge") == "active"
    assert "prog" not in world.ip("link", "show", "v0")


def test_a_program_that_a_caller_put_there_stays_until_the_declaration_changes(world: World) -> None:
    declare(world, "a.toml", link("edge", "xdp:v0"))
    daemon = world.daemon()
    daemon.replace("edge", elf(program("count"), "count_old"))
    before = in_kernel(daemon)
    assert reload(daemon) == ({"unchanged": 1}, [])
    daemon.restart()
    assert in_kernel(daemon) == before
    after_reboot(daemon)
    assert daemon.link("edge")["Program"]["name"] == "count_old"
    declare(world, "a.toml", link("edge", "xdp:v0", NEW))
    assert reload(daemon) == ({"replaced": 1}, [])
    assert daemon.link("edge")["Program"]["name"] == "count_new"


def test_after_a_reboot_links_are_back_except_the_ephemeral(world: World) -> None:
    daemon = world.daemon()
    path = world.cgroup()
    daemon.attach("edge", {"xdp": "v0"}, elf(program("count"), "count_old"))
    daemon.attach(
        "passing",
        {"cgroup": path, "attach_type": "egress"},
        builtin(),
        lifetime=GLib.Variant("s", "ephemeral"),
    )
    daemon.restart()
    assert set(daemon.links()) == {"edge", "passing"}
    assert daemon.link("passing")["Lifetime"] == "ephemeral"
    after_reboot(daemon)
    assert {name: found["State"] for name, found in daemon.links().items()} == {"edge": "active"}
    assert daemon.link("edge")["Program"]["name"] == "count_old"
    assert daemon.link("edge")["Generation"] == 1
    assert "passing" not in daemon.pinned()


def test_a_declared_program_is_back_where_the_last_one_cannot_be_loaded(world: World) -> None:
    declare(world, "a.toml", link("edge", "xdp:v0"))
    daemon = world.daemon()
    with_fd = world.bpffs / "given"
    run("bpftool", "prog", "load", program("single"), with_fd)
    daemon.replace("edge", by_fd(libbpf.obj_get(str(with_fd))))
    assert daemon.link("edge")["Source"][0] == "fd"
    with_fd.unlink()
    after_reboot(daemon)
    edge = daemon.link("edge")
    assert (edge["State"], edge["Program"]["name"]) == ("active", "pass_xdp")


def test_what_export_prints_declares_the_link_as_it_is(world: World) -> None:
    daemon = world.daemon()
    daemon.attach("edge", {"xdp": "v0"}, elf(program("count"), "count_old"))
    before = in_kernel(daemon)
    text = run(CTL, "--bus", world.bus, "export", "edge")
    declare(world, "edge.toml", text)
    assert reload(daemon) == ({"changed": 1}, [])
    assert in_kernel(daemon) == before
    assert daemon.link("edge")["Origin"][0].endswith("links.d/edge.toml")
    assert reload(daemon) == ({"unchanged": 1}, [])
    out = world.dir / "etc" / "links.d"
    (out / "edge.toml").unlink()
    run(CTL, "--bus", world.bus, "export", "edge", "--directory", out)
    assert reload(daemon) == ({"unchanged": 1}, [])
    assert in_kernel(daemon) == before


def test_a_callers_link_is_not_moved_by_a_file(world: World) -> None:
    world.veth("w0", "w1")
    daemon = world.daemon()
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    before = in_kernel(daemon)
    declare(world, "a.toml", link("edge", "xdp:w0"))
    _, ((_, name, sentence, _),) = reload(daemon)
    assert name == "edge"
    assert "was made by a caller on xdp:v0" in sentence
    assert in_kernel(daemon) == before


@pytest.mark.parametrize(("policy", "state"), [("alert", "displaced"), ("restore", "active")])
def test_a_stranger_on_the_hook_is_met_as_policy_says(world: World, policy: str, state: str) -> None:
    run(
        "ip",
        "-n",
        world.netns,
        "link",
        "set",
        "v0",
        "xdpgeneric",
        "object",
        program("single"),
        "section",
        "xdp",
    )
    declare(world, "a.toml", link("edge", "xdp:v0", OLD, f'policy = "{policy}"', 'mode = "generic"'))
    daemon = world.daemon("--sweep-interval", "0.05")
    until(lambda: daemon.state("edge") == state, f"the link is {state}")
    if policy == "alert":
        assert daemon.link("edge")["Running"]["program"]["name"]
        world.ip("link", "set", "v0", "xdpgeneric", "off")
        until(lambda: daemon.state("edge") == "active", "the stranger's leaving lets ours in")


def test_sighup_reloads(world: World) -> None:
    daemon = world.daemon()
    declare(world, "a.toml", link("edge", "xdp:v0"))
    assert daemon.process
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "edge" in daemon.links(), "the declared link is there")


def test_reloads_at_once_follow_one_another(world: World) -> None:
    world.veth("w0", "w1")
    declare(world, "a.toml", link("edge", "xdp:v0"))
    daemon = world.daemon()
    errors: list[Exception] = []

    def call() -> None:
        try:
            run(CTL, "--bus", world.bus, "reload")
        except Exception as error:  # told below
            errors.append(error)

    for n in range(4):
        declare(world, "a.toml", link("edge", "xdp:v0", (OLD, NEW)[n % 2]), link("other", "xdp:w0"))
        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert not errors
    assert daemon.link("edge")["Program"]["name"] == "count_new"
    assert daemon.link("edge")["Generation"] == 5, "each change is one swap, however many reloads"
    assert reload(daemon) == ({"unchanged": 2}, [])


@pytest.mark.cold
def test_a_reload_during_a_restart(world: World) -> None:
    declare(world, "a.toml", link("edge", "xdp:v0", OLD))
    daemon = world.daemon()
    before = in_kernel(daemon)
    for number in (signal.SIGTERM, signal.SIGKILL) * 3:
        assert daemon.process
        daemon.process.send_signal(signal.SIGHUP)
        daemon.end(number)
        daemon.start(ready=False)
        until(lambda: Path(f"/proc/{daemon.process.pid}/status").exists(), "the process")  # type: ignore[union-attr]
        until(ignores_hup(daemon), "the daemon has begun")
        daemon.process.send_signal(signal.SIGHUP)
        until(daemon.owned, "the daemon is ready")
        assert daemon.process.poll() is None
        assert in_kernel(daemon) == before


def ignores_hup(daemon: Daemon) -> Any:
    def check() -> bool:
        assert daemon.process
        for line in Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines():
            if line.startswith(("SigIgn:", "SigCgt:")) and int(line.split()[1], 16) & 1 << signal.SIGHUP - 1:
                return True
        return False

    return check


def test_a_declared_link_that_a_caller_detached_is_back_at_the_next_reload(world: World) -> None:
    declare(world, "a.toml", link("edge", "xdp:v0"))
    daemon = world.daemon()
    told = run(CTL, "--bus", world.bus, "detach", "edge")
    assert told.endswith("a.toml declares it, so the next reload attaches it again\n")
    assert daemon.links() == {}
    assert reload(daemon) == ({"attached": 1}, [])


def test_only_root_may_reload(world: World) -> None:
    daemon = world.daemon()
    del daemon
    done = subprocess.run(
        [CTL, "--bus", world.bus, "reload"],
        user=65534,
        group=65534,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert "only root may" in done.stderr
