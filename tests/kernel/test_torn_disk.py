"""A loss of power at any moment: the records open again, and hold all that was reported as done."""

import hashlib
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bpflinkd.core.ports import Stored
from bpflinkd.core.sources import StoredObject
from bpflinkd.store.sqlite import FILE_NAME, SqliteStore
from tests.lab import Daemon, World
from tests.lab.compiled import program
from tests.lab.daemon import Source, elf
from tests.lab.disk import Disk, Event, Image, recorded, recorder
from tests.lab.faults import require_strace
from tests.lab.world import run, until


class Recorded(Daemon):
    """A daemon whose writes are recorded, in a log of its own for each start."""

    def __init__(self, world: World) -> None:
        super().__init__(world, ["--sweep-interval", "3600"], warm=False)
        self.logs: list[Path] = []
        self.left: list[Image] = []
        """What was in the state directory after each end."""

    def command(self) -> list[str]:
        self.logs.append(self.world.dir / f"writes_{len(self.logs)}")
        return [*recorder(self.logs[-1]), *super().command()]

    def end(self, number: int = signal.SIGTERM) -> int:
        running = self.process is not None and self.process.poll() is None
        code = super().end(number)
        if running:
            assert self.process
            # strace follows it a little later.
            mark = f"{self.process.pid} "
            until(lambda: _last_of(self.logs[-1], mark), "the end of the record")
            files = [
                file for file in self.state_dir.iterdir() if file.is_file() and file.suffix != ".sqlite-shm"
            ]
            self.left.append({file.name: file.read_bytes() for file in files})
        return code


def _last_of(log: Path, mark: str) -> bool:
    tail = log.read_text(errors="replace").rstrip().rpartition("\n")[2]
    return tail.startswith(mark) and ("+++ exited" in tail or "+++ killed" in tail)


@dataclass(frozen=True)
class Answer:
    """An operation that was answered as done."""

    at: float
    name: str
    generation: int
    """That the link has then; 0 where it was detached."""


@dataclass
class Story:
    """What was asked of the daemon, and what came of it."""

    daemon: Recorded
    answers: list[Answer] = field(default_factory=list)

    def attach(self, name: str, source: Source) -> None:
        self.daemon.attach(name, {"cgroup": self.places[name]}, source)
        self._answered(name, 1)

    def replace(self, name: str, source: Source) -> None:
        self._answered(name, self.daemon.replace(name, source))

    def detach(self, name: str) -> None:
        self.daemon.detach(name)
        self._answered(name, 0)

    def _answered(self, name: str, generation: int) -> None:
        self.answers.append(Answer(time.time(), name, generation))

    def __post_init__(self) -> None:
        self.places = {name: self.daemon.world.cgroup() for name in ("a", "b", "c")}


def tell(story: Story) -> None:
    """Long enough for some checkpoints, with an end and a crash in between."""
    count = program("count")
    allow, deny = elf(count, "connect_ok"), elf(count, "connect_deny")
    story.attach("a", allow)
    story.attach("b", elf(count, "egress_count"))
    for turn in range(3):
        for _ in range(2):
            story.replace("a", deny)
            story.replace("b", elf(count, "egress_deny"))
            story.replace("a", allow)
        story.attach("c", elf(count, "bind_ok"))
        story.detach("b")
        story.attach("b", elf(count, "egress_count"))
        story.detach("c")
        if turn < 2:
            story.daemon.restart((signal.SIGTERM, signal.SIGKILL)[turn])


@dataclass(frozen=True)
class Recording:
    lives: list[tuple[list[Event], Image]]
    """For each life of the daemon what it wrote, and what was in the directory when it had ended."""
    answers: list[Answer]

    @property
    def events(self) -> list[Event]:
        return [event for events, _ in self.lives for event in events]


@pytest.fixture(scope="module")
def recording() -> Iterator[Recording]:
    require_strace()
    with World() as world:
        daemon = Recorded(world)
        try:
            daemon.start()
            story = Story(daemon)
            tell(story)
        finally:
            daemon.end()
        events = [list(recorded(log, daemon.state_dir)) for log in daemon.logs]
        yield Recording(list(zip(events, daemon.left, strict=True)), story.answers)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory: thousands of databases are opened in it."""
    run("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", tmp_path)
    try:
        yield tmp_path
    finally:
        run("umount", "--lazy", tmp_path)


def test_all_writes_are_recorded(recording: Recording) -> None:
    """Played again they make the files that were left: otherwise the rest means nothing."""
    disk = Disk()
    for events, left in recording.lives:
        for event in events:
            disk.do(event)
        assert disk.seen() == left
    calls = [event.call for event in recording.events]
    assert calls.count("write") > 200
    assert calls.count("sync") > len(recording.answers)
    assert [e.name for e in recording.events if e.call == "write"].count(FILE_NAME) > 10, (
        "no checkpoint in it"
    )


@pytest.mark.timeout(600)
def test_what_was_answered_is_there_after_a_loss_of_power(recording: Recording, place: Path) -> None:
    answers = recording.answers
    disk, tried, known = Disk(), 0, set[bytes]()
    for event in recording.events:
        done = [answer for answer in answers if answer.at < event.at]
        coming = answers[len(done)] if len(done) < len(answers) else None
        for image in disk.during(event):
            digest = _digest(image, len(done))
            if digest not in known:
                known.add(digest)
                tried += 1
                _check(place, image, done, coming, event)
        disk.do(event)
    print(f"{len(recording.events)} events, {len(answers)} answers, {tried} disks")
    assert tried > 1000


def _digest(image: Image, done: int) -> bytes:
    made = hashlib.blake2b(str(done).encode())
    for name, content in sorted(image.items()):
        made.update(f"{name} {len(content)} ".encode() + content)
    return made.digest()


def _check(place: Path, image: Image, done: list[Answer], coming: Answer | None, event: Event) -> None:
    state = place / "state"
    state.mkdir()
    for name, content in image.items():
        (state / name).write_bytes(content)
    try:
        store = SqliteStore(state)
        try:
            found = {item.latest.name: item for item in store.load()}
            for name in {answer.name for answer in (*done, *([coming] if coming else []))} | set(found):
                allowed = [_promised(done, name)]
                if coming is not None and coming.name == name:
                    allowed.append(_promised([coming], name))
                assert _is_one_of(found.get(name), allowed), (name, allowed, found.get(name))
            for item in found.values():
                _check_image(store, item)
        finally:
            store.close()
    except Exception as error:
        files = {name: len(content) for name, content in image.items()}
        raise AssertionError(
            f"power lost at: {event}, after {len(done)} answers, left {files}: {error}"
        ) from error
    shutil.rmtree(state)


def _promised(answers: list[Answer], name: str) -> int:
    """The generation that the last answer about a link told; 0 where there is no such link."""
    return next((answer.generation for answer in reversed(answers) if answer.name == name), 0)


def _is_one_of(item: Stored | None, allowed: list[int]) -> bool:
    if item is None or item.ending or item.record is None:
        # A removal need not be on the disk: the link may be there, marked as ending, or as an intent.
        return 0 in allowed
    return item.record.generation.number in allowed


def _check_image(store: SqliteStore, item: Stored) -> None:
    """The object that a program came from is kept with the record."""
    if item.record is not None and isinstance(item.record.generation.source, StoredObject):
        sha256 = item.record.generation.source.sha256
        image = store.image(sha256)
        assert image is not None
        assert hashlib.sha256(image).hexdigest() == sha256
