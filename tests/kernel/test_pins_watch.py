"""The watch on our pins: inotify on a bpffs of its own."""

import errno
import functools
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gi.repository import GLib

from bpflinkd.core.events import PinsTouched, Tiding
from bpflinkd.kernel import libbpf
from bpflinkd.watch import inotify
from bpflinkd.watch.pins import PinsWatch
from tests.lab.world import run


class Watched:
    """A watch on a directory of a bpffs, and what it told."""

    def __init__(self, mount: Path) -> None:
        self.mount, self.root = mount, mount / "pins"
        self.root.mkdir()
        self.told: list[str] = []
        self.lost = 0
        self.watch = PinsWatch(self.root, self._tell, self._lose)

    def _tell(self, tiding: Tiding) -> None:
        assert isinstance(tiding, PinsTouched)
        self.told.append(tiding.link)

    def _lose(self) -> None:
        self.lost += 1

    def made(self, *names: str) -> Path:
        """Directories of links, with a pin and one of maps, that are followed."""
        for name in names:
            (self.root / name / "maps").mkdir(parents=True)
            pin(self.root / name / "link")
            pin(self.root / name / "maps" / "counters")
            self.watch.follow(name)
        assert set(self.hear()) == set(names)
        return self.root / names[0]

    def hear(self) -> list[str]:
        """What is told within a while."""
        until(lambda: False, seconds=0.1)
        told, self.told = self.told, []
        return told


@functools.cache
def a_map() -> int:
    """An fd of a map, to pin wherever something is to be pinned."""
    with tempfile.TemporaryDirectory() as place:
        run("mount", "-t", "bpf", "bpf", place)
        try:
            words = ("type", "array", "key", "4", "value", "4", "entries", "1", "name", "any")
            run("bpftool", "map", "create", f"{place}/any", *words)
            return libbpf.obj_get(f"{place}/any")
        finally:
            run("umount", place)


def pin(path: Path) -> None:
    """Pin it."""
    libbpf.obj_pin(a_map(), str(path))


def until(condition: Callable[[], bool], *, seconds: float = 5) -> bool:
    """Run the main loop until something is true, or for so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        if not GLib.MainContext.default().iteration(False):
            time.sleep(0.001)
    return True


@pytest.fixture
def watched() -> Iterator[Watched]:
    with tempfile.TemporaryDirectory(prefix="bpflinkd-lab-") as place:
        run("mount", "-t", "bpf", "bpf", place)
        try:
            made = Watched(Path(place))
            yield made
            made.watch.close()
        finally:
            subprocess.run(["umount", "--lazy", place], check=False, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize(
    "touch",
    [
        pytest.param(lambda home: (home / "link").unlink(), id="a pin removed"),
        pytest.param(lambda home: (home / "link").rename(home / "other"), id="moved within"),
        pytest.param(lambda home: (home / "link").rename(home.parent / "x"), id="moved out"),
        pytest.param(lambda home: pin(home / "new"), id="added"),
        pytest.param(lambda home: (home / "new").symlink_to("/"), id="a symbolic link"),
        pytest.param(lambda home: (home / "new").hardlink_to(home / "link"), id="a hard link"),
        pytest.param(lambda home: (home / "new").mkdir(), id="a directory"),
        pytest.param(lambda home: (home / "maps" / "counters").unlink(), id="a map removed"),
        pytest.param(lambda home: pin(home / "maps" / "new"), id="a map added"),
        pytest.param(lambda home: (home / "maps").rename(home / "other"), id="the maps moved away"),
        pytest.param(lambda home: run("rm", "-r", home), id="all removed"),
        pytest.param(lambda home: home.rename(home.parent.parent / "other"), id="all moved away"),
    ],
)
def test_a_touch_is_told_once(watched: Watched, touch: Callable[[Path], object]) -> None:
    home = watched.made("edge", "other")
    touch(home)
    assert watched.hear() == ["edge"]


def test_what_happened_before_it_was_followed_is_told(watched: Watched) -> None:
    watched.watch.follow("edge")
    assert watched.hear() == ["edge"]
    (watched.root / "edge").mkdir()
    assert watched.hear() == ["edge"]
    pin(watched.root / "edge" / "link")
    assert watched.hear() == ["edge"]


def test_directories_that_are_made_again_are_watched(watched: Watched) -> None:
    home = watched.made("edge")
    run("rm", "-r", home)
    assert watched.hear() == ["edge"]
    (home / "maps").mkdir(parents=True)
    assert watched.hear() == ["edge"]
    for place in (home / "link", home / "maps" / "counters"):
        pin(place)
        assert watched.hear() == ["edge"]
    (home / "next_maps").mkdir()
    (home / "maps" / "counters").unlink()
    (home / "maps").rmdir()
    (home / "next_maps").rename(home / "maps")
    assert watched.hear() == ["edge"]
    pin(home / "maps" / "counters")
    assert watched.hear() == ["edge"]


def test_directories_of_two_links_that_change_places(watched: Watched) -> None:
    home = watched.made("edge", "other")
    home.rename(watched.mount / "aside")
    (watched.root / "other").rename(home)
    (watched.mount / "aside").rename(watched.root / "other")
    assert sorted(watched.hear()) == ["edge", "other"]
    for name in ("edge", "other"):
        (watched.root / name / "link").unlink()
        assert watched.hear() == [name]


def test_a_directory_that_was_moved_away_is_watched_no_longer(watched: Watched) -> None:
    home = watched.made("edge")
    elsewhere = home.rename(watched.mount / "elsewhere")
    assert watched.hear() == ["edge"]
    (elsewhere / "link").unlink()
    assert watched.hear() == []


def test_names_that_bpffs_refuses_are_told_as_they_are(watched: Watched) -> None:
    watched.watch.follow("eth0.100")
    assert watched.hear() == ["eth0.100"]
    (watched.root / "eth0_2e100").mkdir()
    assert watched.hear() == ["eth0.100"]


def test_others_are_not_told_of(watched: Watched) -> None:
    home = watched.made("edge")
    watched.watch.unfollow("edge")
    (home / "link").unlink()
    run("rm", "-r", home)
    (watched.root / "stranger").mkdir()
    assert watched.hear() == []
    assert watched.watch.live


def test_the_root_is_removed_and_made_again(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    home = watched.made("edge")
    run("rm", "-r", watched.root)
    assert "edge" in watched.hear()
    assert watched.lost == 1
    assert not watched.watch.live
    assert "was removed" in caplog.text
    watched.watch.sweep()
    assert watched.hear() == ["edge"]
    watched.watch.sweep()
    assert watched.hear() == []  # there is nothing new to say
    (home / "maps").mkdir(parents=True)
    watched.watch.sweep()
    assert watched.hear() == ["edge"]
    assert watched.watch.live
    pin(home / "maps" / "counters")
    assert watched.hear() == ["edge"]


def test_the_root_is_moved_away(watched: Watched) -> None:
    home = watched.made("edge")
    watched.root.rename(watched.mount / "elsewhere")
    assert watched.hear() == []
    assert watched.lost == 1
    watched.watch.sweep()
    assert watched.hear() == ["edge"]
    home.mkdir(parents=True)
    watched.watch.sweep()
    assert watched.hear() == ["edge"]
    pin(home / "link")
    assert watched.hear() == ["edge"]


@pytest.mark.parametrize("lazily", [False, True])
def test_the_bpffs_is_unmounted(watched: Watched, lazily: bool) -> None:
    watched.made("edge")
    opened = os.open(watched.root, os.O_RDONLY) if lazily else -1
    run("umount", *(["--lazy"] if lazily else []), watched.mount)
    watched.hear()
    watched.watch.sweep()
    assert watched.hear() == ["edge"]
    assert not watched.watch.live
    assert "is not there" in watched.watch.detail
    run("mount", "-t", "bpf", "bpf", watched.mount)
    watched.watch.sweep()
    assert watched.hear() == ["edge"]
    (watched.root / "edge").mkdir(parents=True)
    watched.watch.sweep()
    assert watched.hear() == ["edge"]
    pin(watched.root / "edge" / "link")
    assert watched.hear() == ["edge"]
    if lazily:
        os.close(opened)


def test_a_hundred_thousand_files(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    """More events than the kernel keeps: they are lost, everything is looked at, nothing waits long."""
    home = watched.made("edge", "other")
    longest = 0.0
    for number in range(50_000):
        (home / "x").symlink_to("/")
        (home / "x").unlink()
        if number % 10_000 == 9_999:  # let the loop see a full queue
            last = time.monotonic()
            while GLib.MainContext.default().iteration(False):
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert watched.lost
    assert "were lost" in caplog.text
    watched.hear()
    watched.watch.sweep()
    assert sorted(watched.hear()) == ["edge", "other"]
    assert longest < 0.02
    (home / "link").unlink()
    assert watched.hear() == ["edge"]


def test_a_storm_is_told_of_in_rounds(watched: Watched) -> None:
    """Whoever touches pins all the time does not keep us busy with it."""
    home = watched.made("edge")
    began = time.monotonic()
    while time.monotonic() < began + 0.5:
        for _ in range(20):
            (home / "x").mkdir()
            (home / "x").rmdir()
        GLib.MainContext.default().iteration(False)
    assert 2 < len(watched.told) <= 0.5 / 0.01 + 2


def test_no_more_watches_are_to_be_had(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = watched.made("edge")
    real = inotify.Inotify.add

    def full(self: inotify.Inotify, directory: str) -> int:
        if "late" in directory:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, directory)

    for name in ("late", "later"):
        (watched.root / name).mkdir()
    assert watched.hear() == []
    with monkeypatch.context() as patch:
        patch.setattr(inotify.Inotify, "add", full)
        watched.watch.follow("late")
        watched.watch.follow("later")
        assert sorted(watched.hear()) == ["late", "later"]
        assert not watched.watch.live
        assert "fs.inotify.max_user_watches" in watched.watch.detail
        for _ in range(3):  # the sweep does the work
            watched.watch.sweep()
            assert sorted(watched.hear()) == ["late", "later"]
        (home / "link").unlink()
        assert watched.hear() == ["edge"]
    assert caplog.text.count("fs.inotify.max_user_watches") == 1
    watched.watch.sweep()
    assert sorted(watched.hear()) == ["late", "later"]
    assert watched.watch.live
    watched.watch.sweep()
    assert watched.hear() == []


def test_no_inotify_is_to_be_had(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    told: list[Tiding] = []
    with monkeypatch.context() as patch:
        patch.setattr(inotify, "INotify", full)
        watch = PinsWatch(watched.root, told.append, lambda: None)
        (watched.root / "edge").mkdir()
        watch.follow("edge")
        watched.hear()
        watch.sweep()
        watched.hear()
    assert "fs.inotify.max_user_instances" in caplog.text
    assert told == [PinsTouched(link="edge")] * 2
    watch.sweep()
    watched.hear()
    assert watch.live
    (watched.root / "edge" / "x").mkdir()
    watched.hear()
    assert told == [PinsTouched(link="edge")] * 4
    watch.close()


def test_a_thousand_links(watched: Watched) -> None:
    names = [f"link{number}" for number in range(1000)]
    for name in names:
        (watched.root / name / "maps").mkdir(parents=True)
    began = time.thread_time()
    for name in names:
        watched.watch.follow(name)
    assert until(lambda: len(watched.told) == len(names))
    assert time.thread_time() - began < 1
    assert sorted(watched.told) == sorted(names)
