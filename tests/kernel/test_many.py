"""Many links swapped together, all or none: when all is well, when one is bad, when the daemon dies."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpflinkd.client import Builtin, Client, ClientError, Object, Pinned, Swap
from bpflinkd.client.programs import Generation
from tests.lab import Daemon, World
from tests.lab.compiled import program
from tests.lab.daemon import builtin, elf
from tests.lab.faults import Watched, require_strace, when_quiet
from tests.lab.world import run, until

NAMES = ("a", "b", "c", "d", "e", "f")
COUNT = "egress_count"
READS = ("BPF_OBJ_GET", "BPF_OBJ_GET_INFO_BY_FD", "BPF_PROG_GET_FD_BY_ID", "BPF_LINK_CREATE")
"""What only looks; a link is created only to see whether a program fits."""
LASTING = ("bpf", "mkdir", "rmdir", "unlink", "rename", "pwrite64", "fdatasync")


class Six:
    """Six links on cgroups, and a client."""

    def __init__(self, world: World, daemon: Daemon) -> None:
        self.world, self.daemon = world, daemon
        parent = world.cgroup()
        for name in NAMES:
            path = f"{parent}/{name}"
            world.cgroup_dir(path).mkdir()
            daemon.attach(name, {"cgroup": path, "attach_type": "egress"}, elf(program("count"), COUNT))
        self.client = Client(world.bus)

    def swap(self, names: tuple[str, ...] = NAMES, **options: Any) -> Any:
        """Swap them to the same program from a file, which is sent once."""
        return self.client.replace_many(
            [Swap(name, Object(program("count"), COUNT), where=f"x:{at}") for at, name in enumerate(names)],
            **options,
        )

    def seen(self) -> dict[str, tuple[int, int, str]]:
        """Generation, program that runs in the kernel, and state of each."""
        links = self.daemon.links()
        return {name: (links[name]["Generation"], self.running(name), links[name]["State"]) for name in NAMES}

    def running(self, name: str) -> int:
        """What the kernel's link runs."""
        words = run("bpftool", "link", "show", "pinned", self.daemon.pins / name / "link")
        return int(words.split(" prog ")[1].split()[0])

    def everything(self) -> tuple[object, ...]:
        """All that could have changed: what runs, pins with what they lead to, records."""
        pins = []
        for pin in sorted(self.daemon.pins.rglob("*")):
            if pin.is_dir() or "_sentinel" in pin.parts:
                pins.append((str(pin), ""))
                continue
            program, maps = pin.name.startswith("program"), pin.parent.name.startswith("maps")
            kind = "prog" if program else "map" if maps else "link"
            pins.append((str(pin), run("bpftool", kind, "show", "pinned", pin).split(":")[0]))
        history = [self.daemon.history(name) for name in NAMES]
        return self.seen(), pins, history

    def settled(self) -> bool:
        """Whether pins and records hold nothing of a swap that did not come to pass."""
        return not list(self.daemon.pins.rglob("next_*"))


@pytest.fixture
def six(world: World) -> Iterator[Six]:
    daemon = world.daemon("--sweep-interval", "3600", "--no-sentinel")
    made = Six(world, daemon)
    yield made
    made.client.close()


def test_all_are_swapped_and_each_is_told(six: Six) -> None:
    before = six.seen()
    swapped = six.swap(message="release 42")
    assert swapped.generations == [(name, 2) for name in NAMES]
    assert 0 < swapped.skew_ns < 1_000_000_000
    after = six.seen()
    assert all(after[name][0] == 2 and after[name][2] == "active" for name in NAMES)
    assert all(after[name][1] != before[name][1] for name in NAMES)
    assert {six.daemon.history(name)[-1]["message"] for name in NAMES} == {"release 42"}
    assert "6 links swapped together" in six.daemon.said()
    until(lambda: six.daemon.said().count("generation 2 by") == 6, "a line of each")
    # Maps of the same shape went on being used, also where one file was read for all.
    pins = [six.daemon.pins / name for name in NAMES]
    shown = [run("bpftool", "map", "show", "pinned", pin / "maps" / "counters").split(":")[0] for pin in pins]
    kept = [
        run("bpftool", "map", "show", "pinned", pin / "kept/maps_1/counters").split(":")[0] for pin in pins
    ]
    assert shown == kept
    assert len(set(shown)) == 6
    # Back to generation 1 for some, another program for others; and after a restart all is as it was.
    swaps = [Swap(name, Generation(1)) for name in NAMES[:3]] + [
        Swap(name, Builtin("pass")) for name in NAMES[3:]
    ]
    six.client.replace_many(swaps)
    assert [six.running(name) for name in NAMES[:3]] == [before[name][1] for name in NAMES[:3]]
    ended = six.seen()
    six.daemon.restart(signal.SIGKILL)
    assert six.seen() == ended
    assert six.settled()
    assert "swapped as one of several" not in six.daemon.said()


def test_a_dry_run_loads_and_checks_and_changes_nothing(six: Six) -> None:
    before = six.everything()
    assert six.swap(dry_run=True) == ([(name, 2) for name in NAMES], 0)
    assert six.everything() == before
    with pytest.raises(ClientError, match=r"x:5: .*'f'.*verifier_hates"):
        six.client.replace_many(
            [Swap("a", Builtin("pass")), Swap("f", Object(program("count"), "verifier_hates"), where="x:5")],
            dry_run=True,
        )
    assert six.everything() == before


BAD = {
    "the verifier refuses it": (Swap("c", Object(program("count"), "verifier_hates")), "VerifierRejected"),
    "there is no such program": (Swap("c", Object(program("count"), "nothing")), "BadProgram"),
    "it is for another hook": (Swap("c", Object(program("count"), "connect_ok")), "WrongProgramType"),
    "a map of its is to be kept that there is not": (
        Swap("c", Object(program("count"), COUNT), maps={"nothing": "keep"}),
        "BadOption",
    ),
    "the link is at another generation": (
        Swap("c", Object(program("count"), COUNT), expect=7),
        "StaleGeneration",
    ),
    "there is no such generation": (Swap("c", Generation(7)), "NoSuchGeneration"),
    "the link is named twice": (Swap("b", Builtin("pass")), "BadOption"),
    "there is no such link": (Swap("nobody", Builtin("pass")), "NoSuchLink"),
    "there is no such pin": (Swap("c", Pinned("/nowhere")), "BadProgram"),
}


def test_a_bad_one_in_the_middle_changes_nothing(six: Six) -> None:
    before = six.everything()
    for why, (bad, error) in BAD.items():
        swaps = [Swap(name, Object(program("count"), COUNT)) for name in NAMES if name != "c"]
        swaps.insert(2, bad._replace(where="release.toml:17"))
        with pytest.raises(ClientError) as refusal:
            six.client.replace_many(swaps)
        assert refusal.value.name == error, why
        assert refusal.value.sentence.startswith("release.toml:17: "), why
        assert repr(bad.name) in refusal.value.sentence, why
        assert "no link was changed" in refusal.value.sentence, why
        assert six.everything() == before, why
    # One that somebody detached behind our back could not be swapped back to what it was.
    run("bpftool", "link", "detach", "pinned", six.daemon.pins / "d" / "link")
    before = six.everything()
    with pytest.raises(ClientError, match=r"'d' is not attached.*replace it by itself"):
        six.swap()
    assert six.everything() == before


def test_when_the_kernel_refuses_the_third_two_are_swapped_back(six: Six) -> None:
    require_strace()
    assert six.daemon.process
    pid, log = six.daemon.process.pid, six.world.dir / "strace.log"
    for _ in range(2):  # the first one makes directories
        with Watched(pid, log, kill_at={}) as watched:
            six.swap()
            when_quiet(log)
    thread = next(call.thread for call in watched.calls if call.what == "BPF_LINK_UPDATE")
    calls = [call for call in watched.calls if call.thread == thread and call.name == "bpf"]
    third = [call for call in calls if call.what == "BPF_LINK_UPDATE"][2]
    before = six.everything()
    with (
        Watched(pid, log, kill_at={}, fail_at=("bpf", third.nth, "ENOLINK")) as watched,
        pytest.raises(ClientError, match=r"x:2: .*'c'.*no link was changed") as refusal,
    ):
        six.swap()
    assert refusal.value.name == "HookGone"
    updates = [call.what for call in watched.calls].count("BPF_LINK_UPDATE")
    assert updates == 5, "three there, of which one failed, and two back"
    assert six.everything() == before
    assert six.swap().generations == [(name, 4) for name in NAMES]


def test_all_on_trial_come_back_but_those_that_are_confirmed(six: Six) -> None:
    before = six.seen()
    six.swap(NAMES[:3], confirm_within=1.5)
    assert [six.daemon.state(name) for name in NAMES[:3]] == ["trial"] * 3
    with pytest.raises(ClientError, match="waits for confirmation"):
        six.swap()
    six.client.confirm("b")
    until(lambda: six.seen()["a"][0] == 3 and six.seen()["c"][0] == 3, "two to come back")
    now = six.seen()
    assert (now["a"][1], now["c"][1]) == (before["a"][1], before["c"][1])
    assert now["b"][0] == 2
    assert now["b"][1] != before["b"][1]


@pytest.mark.timeout(900)
def test_killed_at_any_moment_both_or_neither_run_the_new_program(six: Six) -> None:
    """Every call that lasts of a swap of two links, and the next start: both as before, or both as after."""
    require_strace()
    log = six.world.dir / "strace.log"
    pair = NAMES[:2]
    # Programs that are loaded: all that happens is the worker's, whose calls are counted.
    loaded = [six.daemon.pins / name / "program" for name in ("e", "f")]

    def swap(client: Client, turn: int) -> None:
        client.replace_many([Swap(name, Pinned(str(loaded[turn % 2]))) for name in pair])

    assert six.daemon.process
    swap(six.client, 0)
    with Watched(six.daemon.process.pid, log, calls=LASTING, kill_at={}) as watched:
        swap(six.client, 1)
    worker = next(call.thread for call in watched.calls if call.what == "BPF_LINK_UPDATE")
    points = [call for call in watched.calls if call.thread == worker and not call.what.endswith(READS)]
    assert [call.what for call in points].count("BPF_LINK_UPDATE") == 2
    assert len(points) > 12
    print(f"{len(points)} points")
    outcomes = []
    turn = 0
    for point in points:
        six.daemon.end()
        six.daemon.start()
        before = six.seen()
        process = six.daemon.process
        assert process
        answered = True
        client = Client(six.world.bus)
        with Watched(process.pid, log, calls=LASTING, kill_at={point.name: point.nth}):
            try:
                swap(client, turn)
            except ClientError:
                answered = False
        client.close()
        assert process.poll() == -signal.SIGKILL, f"{point} was never reached"
        six.daemon.end()
        six.daemon.start()
        now = six.seen()
        changed = [now[name][0] - before[name][0] for name in pair]
        assert changed in ([0, 0], [1, 1]), f"killed at {point}: {now}"
        assert [now[name][1] != before[name][1] for name in pair] == [bool(one) for one in changed], point
        assert changed == [1, 1] or not answered, f"killed at {point}: it was answered as done"
        assert {now[name][2] for name in NAMES} == {"active"}, f"killed at {point}: {now}"
        assert six.settled(), point
        outcomes.append(changed == [1, 1])
        turn += outcomes[-1]
    # In a daemon that has just started the same call may come a moment earlier or later in the swap. That one
    # was killed between the two swaps, or before they were recorded, the log tells.
    assert set(outcomes) == {False, True}
    assert "swapped as one of several" in six.daemon.said()


def test_a_thousand_links_with_one_bad_program(world: World) -> None:
    daemon = world.daemon("--sweep-interval", "3600", "--no-sentinel")
    parent = world.cgroup()
    names = [f"n{number:03}" for number in range(1000)]
    daemon.attach("first", {"cgroup": parent, "attach_type": "egress"}, builtin())
    number = daemon.link("first")["Program"]["id"]
    for name in names:
        path = f"{parent}/{name}"
        world.cgroup_dir(path).mkdir()
        daemon.attach(name, {"cgroup": path, "attach_type": "egress"}, builtin())
    before = {name: (link["Generation"], link["Program"]["id"]) for name, link in daemon.links().items()}
    lines = [f'[[swap]]\nlink = "{name}"\nprogram = {{ id = {number} }}\n' for name in names]
    bad = [*lines]
    bad[500] = (
        f'[[swap]]\nlink = "n500"\nprogram = {{ object = "{program("count")}", name = "verifier_hates" }}\n'
    )
    file = world.dir / "apply.toml"
    file.write_text("".join(bad))
    failed = bpflinkctl(world, "apply", str(file))
    assert failed.returncode == 1
    assert "VerifierRejected: apply.toml:1501: " in failed.stderr
    assert "'n500'" in failed.stderr
    assert {
        name: (link["Generation"], link["Program"]["id"]) for name, link in daemon.links().items()
    } == before
    file.write_text("".join(lines))
    done = bpflinkctl(world, "apply", str(file))
    assert done.returncode == 0, done.stderr
    assert "1000 links swapped together, the last" in done.stdout
    links = daemon.links()
    assert {(links[name]["Generation"], links[name]["Program"]["id"]) for name in names} == {(2, number)}


def test_a_file_is_refused_whole_with_all_its_faults(six: Six) -> None:
    before = six.everything()
    file = six.world.dir / "bad.toml"
    file.write_text(
        '[[swap]]\nlink = "a"\nprogram = { builtin = "pass" }\n'
        '[[swap]]\nlinks = ["b", "a"]\nprogram = { builtin = "pass" }\n'
        '[[swap]]\nlink = "c"\nprogram = { object = "x.o", pin = "/y" }\nexpct = 3\n'
    )
    done = bpflinkctl(six.world, "apply", str(file))
    assert done.returncode == 1
    assert f"{file}:4:1: link 'a' is named twice, before at line 1" in done.stderr
    assert f"{file}:10:1: a swap has no key 'expct'; did you mean expect?" in done.stderr
    assert "exactly one of" in done.stderr
    assert six.everything() == before


def bpflinkctl(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).with_name("bpflinkctl")
    return subprocess.run(
        [tool, "--bus", world.bus, *words], capture_output=True, text=True, check=False, timeout=120
    )
