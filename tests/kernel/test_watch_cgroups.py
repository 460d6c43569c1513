"""Cgroups that appear and go, told by inotify; each test has a cgroup of its own for a root."""

import errno
import itertools
import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gi.repository import GLib

from bpflinkd.core import walk
from bpflinkd.core.events import CgroupAppeared, CgroupGone, Tiding
from bpflinkd.kernel.cgroup import CgroupTree
from bpflinkd.watch import cgroups, inotify
from bpflinkd.watch.cgroups import CgroupWatch
from tests.lab.world import remove_cgroup


def matching(root: Path, pattern: str) -> set[str]:
    """What the worker finds below a cgroup of ours."""
    tree = CgroupTree()
    prefix = f"/{root.relative_to(tree.root)}"
    return {path.removeprefix(prefix) for path in tree.matching(prefix + pattern)}


class Watched:
    """A watch on a hierarchy of its own, and what it told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.told: list[str] = []
        self.lost = 0
        self.watch = CgroupWatch(root, self._tell, self._lose)

    def _tell(self, tiding: Tiding) -> None:
        assert isinstance(tiding, CgroupAppeared | CgroupGone)
        self.told.append(("+" if isinstance(tiding, CgroupAppeared) else "-") + tiding.path)

    def _lose(self) -> None:
        self.lost += 1

    def make(self, *paths: str) -> None:
        """Make cgroups, and those that they are in."""
        for path in paths:
            (self.root / path).mkdir(parents=True)

    def remove(self, *paths: str) -> None:
        """Remove cgroups and those in them."""
        for path in paths:
            remove_cgroup(self.root / path)

    def hear(self) -> list[str]:
        """What was told since the last call, once all is quiet."""
        settle()
        told, self.told = self.told, []
        return told

    def now(self, told: list[str]) -> set[str]:
        """What is there, going by all that was told."""
        there: set[str] = set()
        for tiding in told:
            (there.add if tiding[0] == "+" else there.discard)(tiding[1:])
        return there


def settle() -> None:
    """Let the main loop do all there is to do."""
    context = GLib.MainContext.default()
    while context.iteration(False):
        pass


def until(condition: Callable[[], bool], *, seconds: float = 10) -> None:
    """Run the main loop until something is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        GLib.MainContext.default().iteration(False)


@pytest.fixture
def watched() -> Iterator[Watched]:
    place = CgroupTree().root / f"bpflinkd-lab-{os.getpid()}-{time.monotonic_ns()}"
    place.mkdir()
    made = Watched(place)
    try:
        yield made
    finally:
        made.watch.close()
        remove_cgroup(place)


def test_a_cgroup_that_appears_and_goes(watched: Watched) -> None:
    watched.watch.follow("/a")
    assert watched.hear() == []
    watched.make("a", "b")
    assert watched.hear() == ["+/a"]
    watched.remove("a", "b")
    assert watched.hear() == ["-/a"]
    assert watched.watch.events == 4


def test_a_cgroup_that_is_there_already(watched: Watched) -> None:
    watched.make("a/b")
    watched.watch.follow("/a/b")
    assert watched.hear() == ["+/a/b"]
    watched.watch.follow("/a/b")
    assert watched.hear() == ["+/a/b"]
    watched.watch.follow("/")
    assert watched.hear() == ["+/"]


def test_who_knows_that_it_is_there_hears_only_of_the_opposite(watched: Watched) -> None:
    watched.make("a/b", "a/c")
    for path in ("/a/b", "/a/c", "/a/none", "/none/x", "/"):
        watched.watch.follow(path, there=True)
    assert sorted(watched.hear()) == ["-/a/none", "-/none/x"]
    watched.remove("a/b")
    assert watched.hear() == ["-/a/b"]
    watched.make("a/b", "none/x")
    assert watched.hear() == ["+/a/b", "+/none/x"]


def test_a_follower_who_does_not_know_is_told_beside_one_who_does(watched: Watched) -> None:
    watched.watch.follow("/a")
    watched.watch.follow("/*")
    settle()
    watched.make("a")
    watched.watch.follow("/a", there=True)
    assert "+/a" in watched.hear()


def test_a_whole_tree_at_once_where_nothing_was(watched: Watched) -> None:
    watched.watch.follow("/a/b/c/d")
    settle()
    assert watched.watch.watches == 1
    watched.make("a/b/c/d")
    assert watched.hear() == ["+/a/b/c/d"]
    assert watched.watch.watches == 4


def test_a_tree_removed_and_made_again_at_once(watched: Watched) -> None:
    watched.make("a/b/c")
    watched.watch.follow("/a/b/c", there=True)
    settle()
    watched.remove("a")
    watched.make("a/b/c")
    assert watched.hear() == ["-/a/b/c", "+/a/b/c"]
    watched.remove("a/b/c")
    assert watched.hear() == ["-/a/b/c"]
    assert watched.watch.watches == 3


def test_the_watch_on_a_removed_directory_is_ended(watched: Watched) -> None:
    watched.watch.follow("/a/b/c")
    for _ in range(3):
        watched.make("a/b")
        settle()
        assert watched.watch.watches == 3
        watched.remove("a")
        settle()
        assert watched.watch.watches == 1
    assert watched.hear() == []


def test_wildcards(watched: Watched) -> None:
    watched.make("s/a.service", "s/a.scope", "s/b.service/deep", "s/.hidden.service")
    watched.watch.follow("/s/*.service")
    assert sorted(watched.hear()) == ["+/s/.hidden.service", "+/s/a.service", "+/s/b.service"]
    watched.make("s/c.service", "s/c.slice")
    assert watched.hear() == ["+/s/c.service"]
    watched.remove("s/b.service")
    assert watched.hear() == ["-/s/b.service"]


def test_wildcards_on_the_way(watched: Watched) -> None:
    watched.make("a/x/b", "a/y", "a/z/c")
    watched.watch.follow("/a/*/b")
    assert watched.hear() == ["+/a/x/b"]
    watched.make("a/y/b", "a/v/b", "b/w/b")
    assert sorted(watched.hear()) == ["+/a/v/b", "+/a/y/b"]
    watched.remove("a")
    assert sorted(watched.hear()) == ["-/a/v/b", "-/a/x/b", "-/a/y/b"]


def test_two_patterns_for_one_cgroup(watched: Watched) -> None:
    watched.make("a/b/x")
    watched.watch.follow("/*/b")
    watched.watch.follow("/a/[a-c]")
    watched.watch.follow("/a/b/*")
    assert set(watched.hear()) == {"+/a/b", "+/a/b/x"}
    watched.make("a/b/y")
    assert watched.hear() == ["+/a/b/y"]
    watched.remove("a")
    assert sorted(watched.hear()) == ["-/a/b", "-/a/b/x", "-/a/b/y"]


def test_a_file_is_no_cgroup(watched: Watched) -> None:
    watched.watch.follow("/cgroup.procs", there=True)
    watched.watch.follow("/cgroup.*")
    assert watched.hear() == ["-/cgroup.procs"]


def test_names_of_any_bytes(watched: Watched) -> None:
    # All but a newline, which cgroup_mkdir() refuses with EINVAL (kernel/cgroup/cgroup.c).
    watched.watch.follow("/*")
    settle()
    names = [b"\xff", "ä ".encode(), b"*", b"x[1]"]
    for name in names:
        os.mkdir(os.fsencode(watched.root) + b"/" + name)
    assert sorted(os.fsencode(told[2:]) for told in watched.hear()) == sorted(names)


def test_each_follower_unfollows_for_itself(watched: Watched) -> None:
    watched.make("a")
    for _ in range(2):
        watched.watch.follow("/a/b")
    settle()
    watched.watch.unfollow("/a/b")
    watched.make("a/b")
    assert watched.hear() == ["+/a/b"]
    watched.watch.unfollow("/a/b")
    watched.remove("a/b")
    assert watched.hear() == []
    assert watched.watch.watches == 0
    watched.make("a/b")
    watched.watch.follow("/a/b", there=True)
    watched.remove("a")
    assert watched.hear() == ["-/a/b"]


def test_unfollowing_one_leaves_the_others(watched: Watched) -> None:
    watched.make("a/b/c", "a/d/c")
    for path in ("/a/*/c", "/a/b/c", "/a/d"):
        watched.watch.follow(path)
    settle()
    assert watched.watch.watches == 4
    watched.hear()
    watched.watch.unfollow("/a/*/c")
    settle()
    assert watched.watch.watches == 3
    watched.remove("a/d", "a/b")
    assert watched.hear() == ["-/a/d", "-/a/b/c"]


def test_unfollowed_before_the_search_began(watched: Watched) -> None:
    watched.make("a/b")
    watched.watch.follow("/a/b")
    watched.watch.unfollow("/a/b")
    assert watched.hear() == []
    assert watched.watch.watches == 0


@pytest.mark.parametrize("seed", range(8))
def test_what_is_told_comes_to_what_is_there(watched: Watched, seed: int) -> None:
    """Somebody makes and removes cgroups at random all the while; patterns come and go meanwhile."""
    patterns = ["/a/*", "/*/b", "/a/b/c", "/*/*/*", "/b/[ab]/c", "/c"]
    watched.make("stays")  # the stranger removes what gets empty, but not the root
    stranger = subprocess.Popen(
        [sys.executable, "-c", _STRANGER, str(watched.root), str(seed)], stdout=subprocess.DEVNULL
    )
    chance = random.Random(seed)
    for pattern in patterns:
        watched.watch.follow(pattern)
    while stranger.poll() is None:
        some = chance.choice(patterns)
        watched.watch.follow(some, there=None if "*" in some else chance.choice([None, True]))
        for _ in range(chance.randrange(50)):
            GLib.MainContext.default().iteration(False)
        watched.watch.unfollow(some)
    assert stranger.wait() == 0
    told = watched.hear()
    assert len(told) > 100
    there = {path for pattern in patterns for path in matching(watched.root, pattern)}
    assert watched.now(told) == there
    # The watches are those on what is there: it goes on to notice everything.
    watched.remove(*(path.name for path in watched.root.iterdir() if path.is_dir()))
    assert watched.now([*("+" + path for path in there), *watched.hear()]) == set()
    watched.make("a/b/c", "c")
    assert set(watched.hear()) == {"+/a/b", "+/a/b/c", "+/c"}
    assert watched.lost == 0


_STRANGER = """
import os, random, sys
root, chance = sys.argv[1], random.Random(int(sys.argv[2]))
for _ in range(4000):
    path = root + "".join("/" + chance.choice("abc") for _ in range(chance.randrange(1, 4)))
    try:
        if chance.random() < 0.5:
            os.makedirs(path)
        elif chance.random() < 0.5:
            os.rmdir(path)
        else:
            os.removedirs(path)
    except OSError:
        pass
"""


def test_lost_events_lead_to_a_search(watched: Watched) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 100_000:
        pytest.skip(f"{limit} events would have to be made")
    watched.make("old/x", "stays/x")
    watched.watch.follow("/*/x")
    watched.hear()
    watched.remove("old")
    for _ in range(limit // 2 + 10):
        watched.make("busy")
        watched.remove("busy")
    watched.make("new/x")
    watched.remove("stays/x")
    assert sorted(watched.hear()) == ["+/new/x", "-/old/x", "-/stays/x"]
    assert (watched.lost, watched.watch.losses) == (1, 1)
    watched.remove("new/x")
    assert watched.hear() == ["-/new/x"]


def test_no_more_watches_are_to_be_had(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cgroups, "_RETRY", 1)
    real = inotify.Inotify.add

    def full(self: inotify.Inotify, directory: str) -> int:
        if directory.rstrip("/").endswith(("/b", "/c")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, directory)

    monkeypatch.setattr(inotify.Inotify, "add", full)
    watched.make("a/x", "b/x", "c/x")
    with caplog.at_level(logging.WARNING):
        watched.watch.follow("/*/x")
        assert sorted(watched.hear()) == ["+/a/x", "+/b/x", "+/c/x"]
    assert "fs.inotify.max_user_watches" in caplog.text
    assert (watched.lost, len(caplog.records)) == (1, 1)
    watched.remove("a/x", "b/x")
    assert watched.hear() == ["-/a/x"]
    monkeypatch.undo()
    until(lambda: watched.watch.watches == 4)
    assert watched.hear() == ["-/b/x"]
    watched.remove("c/x")
    assert watched.hear() == ["-/c/x"]


def test_no_inotify_is_to_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(**_: bool) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(cgroups, "_RETRY", 1)
    with monkeypatch.context() as patch:
        patch.setattr(inotify, "INotify", full)
        watched = Watched(tmp_path)
    assert "fs.inotify.max_user_instances" in caplog.text
    watched.make("a")
    watched.watch.follow("/a")
    assert watched.hear() == ["+/a"]
    until(lambda: watched.watch.watches == 1)
    watched.remove("a")
    assert watched.hear() == ["-/a"]
    watched.watch.close()


def test_the_root_goes_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "_RETRY", 1)
    watched = Watched(tmp_path / "root")
    watched.make("a")
    watched.watch.follow("/a")
    settle()
    remove_cgroup(watched.root)
    assert watched.hear() == ["+/a", "-/a"]
    assert watched.lost == 1
    watched.make("a")
    until(lambda: watched.watch.watches == 1)
    assert watched.hear() == ["+/a"]
    watched.watch.close()


def test_a_thousand_paths_in_one_directory_are_one_watch(watched: Watched) -> None:
    watched.make(*(f"s{number}" for number in range(1000)))
    begin = time.thread_time()
    for number in range(1000):
        watched.watch.follow(f"/s{number}", there=True)
    took = time.thread_time() - begin
    assert took < 0.05, f"{took * 1e3:.0f} us a follow"
    assert watched.hear() == []
    assert watched.watch.watches == 1
    watched.remove("s7")
    assert watched.hear() == ["-/s7"]
    for number in range(1000):
        watched.watch.unfollow(f"/s{number}")
    assert watched.hear() == []
    assert watched.watch.watches == 0


@pytest.mark.parametrize("pattern", ["/s*", "/s*/x"])
def test_a_thousand_at_once_do_not_block_the_main_loop(watched: Watched, pattern: str) -> None:
    watched.watch.follow(pattern)
    settle()
    longest = longest_cpu = 0.0
    last, last_cpu = time.perf_counter(), time.thread_time()

    def tick() -> bool:
        nonlocal longest, longest_cpu, last, last_cpu
        now, now_cpu = time.perf_counter(), time.thread_time()
        longest, longest_cpu = max(longest, now - last), max(longest_cpu, now_cpu - last_cpu)
        last, last_cpu = now, now_cpu
        return True

    code = "import os, sys\nfor n in range(1000): os.makedirs(f'{sys.argv[1]}/s{n}/x')"
    with subprocess.Popen([sys.executable, "-c", code, str(watched.root)]):
        last, last_cpu = time.perf_counter(), time.thread_time()
        source = GLib.timeout_add(1, tick)
        until(lambda: len(watched.told) >= 1000)
        GLib.source_remove(source)
    print(f"{pattern}: at most {longest * 1e3:.1f} ms, {longest_cpu * 1e3:.1f} ms of CPU between two turns")
    assert len(set(watched.hear())) == 1000
    # CPU time, so that a busy machine does not count.
    assert longest_cpu < 0.02


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        pytest.param("/a", ["/a"], id="plain"),
        pytest.param("/a/b/c", ["/a/b/c"], id="plain and deep"),
        pytest.param("/none/c", [], id="plain and missing"),
        pytest.param("/*", ["/a", "/d"], id="all"),
        pytest.param("/*/b", ["/a/b", "/d/b"], id="on the way"),
        pytest.param("/a/[!b]*/c", ["/a/x.y/c"], id="classes"),
        pytest.param("/cgroup.*", [], id="files are none"),
    ],
)
def test_what_matches_now(watched: Watched, pattern: str, expected: list[str]) -> None:
    watched.make("a/b/c", "a/x.y/c", "d/b")
    assert sorted(matching(watched.root, pattern)) == expected


def test_wanted_paths_leave_nothing_behind() -> None:
    wanted = walk.Wanted()
    paths = [walk.parts_of(path) for path in ("/a", "/a/b", "/*/b", "/a/b/c", "/", "/a")]
    for order in itertools.permutations(paths):
        for parts in paths:
            wanted.add(parts)
        emptied = [wanted.remove(parts) for parts in order]
        assert any(emptied)
        assert (wanted.deep, wanted.followers) == (False, 0)
