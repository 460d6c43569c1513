"""What of loading objects for others needs no program: files, limits, the process that misbehaves."""

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpflinkd import compiler
from bpflinkd.core import attach_types
from bpflinkd.core.errors import (
    ALL_ERRORS,
    BadProgram,
    BpflinkdError,
    Internal,
    LimitExceeded,
    NotSupported,
    VerifierRejected,
)
from bpflinkd.core.maps import MapShape
from bpflinkd.core.model import Confinement
from bpflinkd.core.sources import MAX_OBJECT
from bpflinkd.kernel import archive, confined, maps, objects
from bpflinkd.kernel import compile as compiling
from bpflinkd.kernel.helper import Limits, Spawned, Way
from bpflinkd.kernel.maps import MapLimits
from tests.lab.leftovers import nothing_left
from tests.unit.test_compile import ENDING, PROLOGUE, listening

CONFINED = Confinement(kernel_memory=False, maps=4, memory=1 << 20)
DATA = b"\x7fELF and so on"
HASH, ARRAY, PERCPU_ARRAY, RINGBUF = 1, 2, 6, 27


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with nothing_left():
        yield


# Files of callers

_ALL_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


@contextlib.contextmanager
def memfd(data: bytes, seals: int) -> Iterator[int]:
    fd = os.memfd_create("given", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, data)
        if seals:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        yield fd
    finally:
        os.close(fd)


@pytest.mark.parametrize("more", [0, fcntl.F_SEAL_SEAL], ids=["three seals", "all seals"])
def test_a_sealed_memfd_is_read_whole(more: int) -> None:
    with memfd(DATA, _ALL_SEALS | more) as fd:
        assert objects.read_object(fd, sealed=True) == DATA


@pytest.mark.parametrize(
    ("seals", "open_to"),
    [
        pytest.param(0, "writing, shrinking, growing", id="no seal"),
        pytest.param(fcntl.F_SEAL_WRITE, "shrinking, growing", id="sealed against writes only"),
        pytest.param(fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW, "writing", id="sealed in size only"),
        pytest.param(0x10 | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW, "writing", id="against future writes"),
    ],
)
def test_a_memfd_that_somebody_can_change_is_refused(seals: int, open_to: str) -> None:
    with memfd(DATA, seals) as fd, pytest.raises(BadProgram, match=f"sealed against {open_to}; copy the"):
        objects.read_object(fd, sealed=True)


def _opened(kind: str, place: Path) -> int:
    match kind:
        case "a FIFO":
            os.mkfifo(place / "fifo")
            return os.open(place / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        case "a socket":
            return socket.socket().detach()
        case "a pipe":
            reading, writing = os.pipe()
            os.close(writing)
            return reading
        case "a regular file":
            (place / "file").write_bytes(DATA)
            return os.open(place / "file", os.O_RDONLY)
        case "a file on tmpfs":
            with tempfile.TemporaryFile(dir="/dev/shm") as file:
                return os.dup(file.fileno())
        case "a sparse terabyte":
            with tempfile.TemporaryFile() as file:
                file.truncate(1 << 40)
                return os.dup(file.fileno())
        case "a path only":
            return os.open("/dev/null", os.O_PATH)
        case _:
            return os.open(kind, os.O_RDONLY)


@pytest.mark.parametrize(
    "kind",
    [
        *("a FIFO", "a socket", "a pipe", "a regular file", "a file on tmpfs", "a sparse terabyte"),
        *("a path only", "/", "/dev/zero", "/proc/self/mem"),
    ],
)
def test_what_is_no_sealed_memfd_is_refused_untouched(kind: str, tmp_path: Path) -> None:
    fd = _opened(kind, tmp_path)
    try:
        for read in (objects.read_object, compiling.read_source):
            with pytest.raises(BadProgram, match=r"is not a memfd.*as bpflinkctl and bpflinkd\.client do"):
                read(fd, sealed=True)
    finally:
        os.close(fd)


def test_a_sealed_memfd_may_be_too_large() -> None:
    fd = os.memfd_create("given", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.truncate(fd, 1 << 40)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _ALL_SEALS)
        with pytest.raises(BadProgram, match=f"at most {MAX_OBJECT}"):
            objects.read_object(fd, sealed=True)
    finally:
        os.close(fd)


def test_a_sealed_memfd_that_cannot_be_read_is_refused() -> None:
    with memfd(DATA, _ALL_SEALS) as fd:
        writing = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
        try:
            with pytest.raises(BadProgram, match="cannot be read"):
                objects.read_object(writing, sealed=True)
        finally:
            os.close(writing)


def test_root_may_give_any_regular_file(tmp_path: Path) -> None:
    fd = _opened("a regular file", tmp_path)
    try:
        assert objects.read_object(fd) == DATA
    finally:
        os.close(fd)


# Limits on maps

LIMITS = MapLimits(4, 1 << 20)


def shape(kind: int = ARRAY, entries: int = 1, value: int = 8, name: str = "m") -> MapShape:
    return MapShape(name, kind, 4, value, entries)


@pytest.mark.parametrize(
    ("given_maps", "error", "says"),
    [
        pytest.param([shape()] * 5, LimitExceeded, "more than 4 maps", id="one too many"),
        pytest.param([shape(entries=1 << 17)], LimitExceeded, "'m' takes about 10", id="too large"),
        pytest.param([shape(PERCPU_ARRAY, 1 << 14)], LimitExceeded, "takes about", id="for 64 CPUs"),
        pytest.param(
            [shape(HASH, 0xFFFFFFFF, 0xFFFFFFFF)], LimitExceeded, "takes about", id="more than 64 bits"
        ),
        pytest.param([shape(entries=60000), shape(entries=80000)], LimitExceeded, "makes 11", id="sum"),
        pytest.param([shape(RINGBUF, (1 << 19) + 1)], LimitExceeded, "takes", id="a size rounded up"),
        *(
            pytest.param([shape(kind)], BadProgram, f"of type {kind}", id=f"type {kind}")
            for kind in (0, 12, 13, 24, 26, 28, 29, 32, 33, 34, -1, 1 << 31)
        ),
    ],
)
def test_maps_that_are_not_granted_are_refused(
    given_maps: list[MapShape], error: type[BpflinkdError], says: str
) -> None:
    with pytest.raises(error, match=says):
        maps.check(given_maps, LIMITS, 64)


def test_maps_that_are_granted_pass() -> None:
    maps.check([shape()] * 4, LIMITS, 64)
    maps.check([shape(entries=1 << 16)], LIMITS, 64)
    maps.check([], MapLimits(0, 0), 64)


@given(
    kind=st.sampled_from(sorted(maps._TYPES)),
    entries=st.integers(0, (1 << 32) - 1),
    value=st.integers(0, (1 << 32) - 1),
    cpus=st.integers(1, 8192),
)
def test_an_estimate_is_never_below_the_values(kind: int, entries: int, value: int, cpus: int) -> None:
    found = maps.estimate(shape(kind, entries, value), cpus)
    if kind in (RINGBUF, 31):
        assert found > entries
    else:
        assert found >= entries * value
    assert found <= maps.estimate(shape(kind, entries, value), cpus + 1)


# Instructions


@pytest.mark.parametrize(
    ("instruction", "refused"),
    [
        pytest.param((0x85, 0x20, 0, 77), True, id="a kfunc"),
        pytest.param((0x18, 0x31, 0, 77), True, id="a variable of the kernel"),
        pytest.param((0x85, 0x00, 0, 1), False, id="a helper"),
        pytest.param((0x85, 0x10, 0, 5), False, id="a subprogram"),
        pytest.param((0x18, 0x11, 0, 3), False, id="a map"),
        pytest.param((0x18, 0x21, 0, 3), False, id="a value of a map"),
        pytest.param((0xBF, 0x21, 0, 0), False, id="a move"),
    ],
)
def test_what_is_the_kernels_own_is_refused(instruction: tuple[int, int, int, int], refused: bool) -> None:
    (word,) = struct.unpack("=Q", struct.pack("=BBhi", *instruction))
    with pytest.raises(BadProgram) if refused else contextlib.nullcontext():
        confined.check_instructions("f", [0xB7, word, 0x95])


def test_what_bcc_has_compiled_is_looked_at_as_it_will_be_loaded() -> None:
    words = [0xB7, 0x4D_0000_2085, 0x95]
    module = SimpleNamespace(dump_func=lambda name: struct.pack("=3Q", *words) if name == b"f" else b"")
    found = compiler.instructions(module, "f")
    assert found == words
    with pytest.raises(BadProgram, match="a kfunc"):
        confined.check_instructions("f", found)


# A process that misbehaves


def ask(way: Way, *, seconds: float = 20.0, name: str | None = None) -> None:
    objects.run_helper(
        way,
        DATA,
        name,
        attach_types.XDP,
        CONFINED,
        given=False,
        limits=Limits(seconds=seconds, memory=1 << 28),
    ).close()


def run(script: str) -> None:
    ask(Spawned(script=(PROLOGUE + script).encode(), launcher=()))


def refused(error: str, text: str = "no") -> str:
    return f"answer({{'kind': 'refused', 'error': {error!r}, 'text': {text!r}, 'log': [0, 0]}})"


@pytest.mark.parametrize(
    ("script", "error", "says"),
    [
        pytest.param(
            "os.kill(os.getpid(), signal.SIGSEGV)",
            BadProgram,
            r"the loader process crashed on this object \(SIGSEGV\)",
            id="crashes",
        ),
        pytest.param("os.abort()", BadProgram, "crashed on this object .SIGABRT.", id="aborts"),
        pytest.param(
            "resource.setrlimit(resource.RLIMIT_CPU, (1, 6))\nwhile True: pass",
            BadProgram,
            "loading the object took more than 20 s of processor time",
            id="uses up its processor time",
        ),
        pytest.param(
            "answer({'kind': 'memory', 'log': [0, 0]})",
            BadProgram,
            "loading the object takes more than 256 MiB of memory",
            id="eats memory",
        ),
        pytest.param("sys.exit(3)", Internal, "the loader process ended with status 3", id="gives up"),
        pytest.param("answer(b'{')", Internal, "no answer", id="half an object"),
        pytest.param("answer({'kind': 'loaded', 'log': [0, 1e999]})", Internal, "no answer", id="infinity"),
        pytest.param(refused("SystemExit"), Internal, "loader process failed: no", id="no error of ours"),
        pytest.param(refused("__class__"), Internal, "loader process failed: no", id="no error at all"),
        pytest.param(
            "answer({'kind': 'refused', 'error': ['BadProgram'], 'text': 'no', 'log': [0, 0]})",
            Internal,
            "failed",
            id="a list for an error",
        ),
        pytest.param(
            "answer({'kind': 'loaded', 'function': 'f', 'maps': [], 'log': [0, 0]}, os.pipe()[:1])",
            Internal,
            "not a BPF program but pipe",
            id="a pipe for a program",
        ),
        pytest.param(
            "answer({'kind': 'loaded', 'function': 'f', 'maps': ['_' * 120], 'log': [0, 0]}, [0, 0])",
            Internal,
            "names that do not fit",
            id="a name that is too long for a pin",
        ),
        pytest.param(
            "answer({'kind': 'loaded', 'function': 'f', 'maps': ['a/b'], 'log': [0, 0]}, [0, 0])",
            Internal,
            "names that do not fit",
            id="a name that leads elsewhere",
        ),
        pytest.param(
            "answer({'kind': 'loaded', 'function': 'f', 'maps': [], 'log': [0, 0]}, [0] * 200)",
            Internal,
            "names that do not fit",
            id="fds that nobody asked for",
        ),
    ],
)
def test_a_loader_that_fails_is_a_sentence(script: str, error: type[BpflinkdError], says: str) -> None:
    with pytest.raises(error, match=says):
        run(script)


@pytest.mark.parametrize("error", ALL_ERRORS, ids=lambda error: error.__name__)
def test_a_refusal_keeps_its_name(error: type[BpflinkdError]) -> None:
    with pytest.raises(error, match=r"^because$") as caught:
        run(refused(error.__name__, "because"))
    assert type(caught.value) is error


def test_what_a_loader_says_moves_no_cursor_and_has_an_end() -> None:
    script = "os.write(2, b'\\x1b[31mlog')\n" + (
        "answer({'kind': 'refused', 'error': 'VerifierRejected', 'text': '\\x1b[1m' + 'x' * 50000,"
        " 'log': [0, 8]})"
    )
    with pytest.raises(VerifierRejected) as caught:
        run(script)
    assert str(caught.value).startswith("\ufffd[1mxxx")
    assert len(str(caught.value)) == 4000
    assert caught.value.log == "\ufffd[31mlog"


def test_a_loader_that_hangs_is_killed() -> None:
    way = Spawned(script=(PROLOGUE + "time.sleep(60)").encode(), launcher=())
    with pytest.raises(BadProgram, match="still being loaded after 1 s, so the loader was stopped"):
        ask(way, seconds=1.0)


def test_a_loader_of_systemds_that_crashes_is_a_sentence() -> None:
    script = PROLOGUE + ENDING + "os.kill(os.getpid(), signal.SIGSEGV)"
    with (
        listening("-c", script) as listener,
        pytest.raises(BadProgram, match=r"the loader ended on this object .* journalctl"),
    ):
        ask(listener.place)


def test_nobody_at_the_socket_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match=r"unprivileged: nobody listens at .*bpflinkd-compiler\.socket"):
        ask(tmp_path / "socket")


def test_a_name_that_fits_no_message_is_refused_before_anything_starts() -> None:
    with pytest.raises(BadProgram, match="has 1000000 characters; at most 80"):
        ask(Spawned(script=b"", launcher=("/nonexistent",)), name="x" * 1_000_000)


def test_it_is_asked_to_give_up_what_the_grant_does_not_give() -> None:
    with pytest.raises(Internal) as caught:
        run("answer({'kind': 'internal', 'text': json.dumps(request), 'log': [0, 0]})")
    assert str(caught.value).endswith(
        '{"do": "load", "program": null, "type": 6, "attach_type": 37, "given": false, "perfmon": false, '
        '"maps": 4, "map_memory": 1048576, "constants": {}, "log_level": 0, "memory": 268435456, '
        '"seconds": 20}'
    )


# What it brings along


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "as text"])
def test_the_archive_holds_all_that_loading_imports_and_no_more(compiled: bool, tmp_path: Path) -> None:
    place = tmp_path / "archive"
    data = archive.script()
    # Another Python's magic number.
    place.write_bytes(data if compiled else data.replace(MAGIC_NUMBER, b"\0\0\r\n"))
    code = f"""
import sys
sys.path.insert(0, {str(place)!r})
from bpflinkd import compiler
from bpflinkd.kernel import loading
print(*sorted(name for name in sys.modules if name.partition(".")[0] in ("bpflinkd", "bcc")))
print(loading.__spec__.loader.archive)
"""
    words = ("/usr/bin/python3", "-I", "-S", "-B", "-c", code)
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    named = {f"bpflinkd/{name}".replace("/__init__", "").replace("/", ".") for name in archive.MODULES}
    assert set(said[0].split()) == named
    assert said[1] == str(place)
