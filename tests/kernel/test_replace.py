"""Replacing: atomic under live traffic, refused before anything is touched."""

import subprocess
import sys
from pathlib import Path

import pytest

from bpflinkd.store.sqlite import KEPT
from tests.kernel.test_attach import prog_id_of
from tests.lab import Daemon
from tests.lab.compiled import program
from tests.lab.daemon import Refused, builtin, by_id, elf, pinned
from tests.lab.maps import Counters
from tests.lab.world import run, until

REPO = Path(__file__).parents[2]


def load_counters(daemon: Daemon) -> tuple[list[Path], list[Counters]]:
    """`count_old` and `count_new`, loaded and pinned, each with a map of its own."""
    pins, counters = [], []
    for name in ("count_old", "count_new"):
        place = daemon.world.bpffs / f"pre_{name}"
        maps = daemon.world.bpffs / f"maps_{name}"
        with_one = daemon.world.bpffs / f"all_{name}"
        run("bpftool", "prog", "loadall", two_counters(daemon), with_one, "pinmaps", maps)
        pins.append(with_one / name)
        counters.append(Counters(maps / "counters"))
        assert not place.exists()
    return pins, counters


def two_counters(daemon: Daemon) -> Path:
    """The counting programs alone: bpftool loads every program of an object."""
    from tests.lab.compiled import PROGRAMS, compile_c  # noqa: PLC0415

    source = daemon.world.dir / "two.bpf.c"
    output = daemon.world.dir / "two.bpf.o"
    if not output.exists():
        text = (PROGRAMS / "count.bpf.c").read_text()
        head = text[: text.index('SEC("cgroup_skb/egress")')]
        source.write_text(head + 'char _license[] SEC("license") = "Dual BSD/GPL";\n')
        compile_c(source, output)
    return output


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_no_packet_sees_neither_or_both(daemon: Daemon, mode: str) -> None:
    pins, counters = load_counters(daemon)
    daemon.attach("edge", {"xdp": "v0", "mode": mode}, pinned(pins[0]))
    sender = daemon.world.process(
        *daemon.world.inside(sys.executable, "-m", "tests.lab.traffic", "v1", "200000"),
        cwd=REPO,
        stdout=subprocess.PIPE,
    )
    assert sender.stdout
    sender.stdout.readline()
    swaps = 0
    while sender.poll() is None:
        daemon.replace("edge", pinned(pins[(swaps + 1) % 2]))
        swaps += 1
    sent = int(sender.stdout.read())
    counted = [each[0] for each in counters]
    assert swaps > 10
    assert sum(counted) == sent == 200_000
    assert min(counted) > 0


def snapshot(daemon: Daemon) -> tuple[object, ...]:
    """All that a refused replace must leave as it was."""
    pins = sorted(str(p.relative_to(daemon.pins)) for p in daemon.pins.rglob("*"))
    programs = run("bpftool", "prog", "show").count("tag")
    return daemon.links(), pins, programs


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        pytest.param("egress_count", "WrongProgramType", "cgroup_skb", id="a cgroup program"),
        pytest.param("for_devmap", "WrongProgramType", "xdp/devmap", id="a devmap program"),
        pytest.param("verifier_hates", "VerifierRejected", "outside of the packet", id="unsafe"),
        pytest.param("missing", "BadProgram", "count_old, count_new", id="no such program"),
        pytest.param(None, "BadProgram", "choose one with --program", id="several, none named"),
    ],
)
def test_refused_replace_changes_nothing(daemon: Daemon, name: str, error: str, says: str) -> None:
    daemon.attach("edge", {"xdp": "v0"}, elf(program("count"), "count_old"))
    before = snapshot(daemon)
    with pytest.raises(Refused) as refusal:
        daemon.replace("edge", elf(program("count"), name))
    assert refusal.value.name == error
    assert says in refusal.value.message
    assert snapshot(daemon) == before


def test_verifier_log_comes_back_whole(daemon: Daemon) -> None:
    with pytest.raises(Refused) as refusal:
        daemon.attach("edge", {"xdp": "v0"}, elf(program("count"), "verifier_hates"))
    sentence, log = refusal.value.message.split("\n\n", 1)
    assert "\n" not in sentence
    assert log.splitlines()[0].startswith("0: ")
    assert log.splitlines()[-1].startswith("processed ")


@pytest.mark.parametrize("source", ["object", "pin", "id"])
def test_kernel_would_take_another_attach_type_but_we_do_not(daemon: Daemon, source: str) -> None:
    path = daemon.world.cgroup()
    objects = program("count")
    daemon.attach("it", {"cgroup": path}, elf(objects, "connect_ok"))
    daemon.attach("other", {"cgroup": path}, elf(objects, "bind_ok"))
    place = daemon.pins / "other" / "program"
    given = {
        "object": elf(objects, "bind_ok"),
        "pin": pinned(place),
        "id": by_id(prog_id_of(place)),
    }[source]
    before = snapshot(daemon)
    with pytest.raises(Refused) as refusal:
        daemon.replace("it", given)
    assert refusal.value.name == "WrongProgramType"
    assert "bind4" in refusal.value.message
    assert "connect4" in refusal.value.message
    assert snapshot(daemon) == before


def test_expected_generation(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    assert daemon.replace("edge", builtin(), expect=1) == 2
    with pytest.raises(Refused) as refusal:
        daemon.replace("edge", builtin(), expect=1)
    assert refusal.value.name == "StaleGeneration"
    assert "generation 2" in refusal.value.message
    assert daemon.link("edge")["Generation"] == 2


def test_replace_where_a_stranger_swapped_is_refused(daemon: Daemon) -> None:
    pins, _ = load_counters(daemon)
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    tamper(daemon, "edge", pins[0])
    with pytest.raises(Refused) as refusal:
        daemon.replace("edge", builtin())
    assert refusal.value.name == "HookBusy"
    assert "count_old" in refusal.value.message


def tamper(daemon: Daemon, name: str, pin: Path) -> None:
    """A stranger's BPF_LINK_UPDATE of our link, by its kernel id."""
    code = (
        "from bpflinkd.kernel import libbpf\n"
        f"link = libbpf.link_fd_by_id({daemon.link(name)['KernelLinkId']})\n"
        f"old = libbpf.prog_fd_by_id({daemon.link(name)['Program']['id']})\n"
        f"libbpf.link_update(link, libbpf.obj_get('{pin}'), old_prog_fd=old)\n"
    )
    run(sys.executable, "-c", code, cwd=REPO)


def test_fifty_replaces_leave_no_program_behind(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, elf(program("count"), "count_old"))
    # So many generations are kept, with their programs.
    for number in range(KEPT):
        daemon.replace("edge", elf(program("count"), ("count_old", "count_new")[number % 2]))

    def left() -> tuple[int, object]:
        _, pins, programs = snapshot(daemon)
        return len(pins), programs  # type: ignore[arg-type]

    before = left()
    for _ in range(25):
        daemon.replace("edge", elf(program("count"), "count_old"))
        daemon.replace("edge", elf(program("count"), "count_new"))
    assert daemon.link("edge")["Generation"] == 51 + KEPT
    # What a caller sent is closed a moment after the answer.
    until(lambda: left() == before, "as much as there was before")
