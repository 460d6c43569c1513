"""What of compiling C needs neither bcc nor headers: reading the source, the helper, the sentences."""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from bpflinkd import compiler
from bpflinkd.core import attach_types
from bpflinkd.core.errors import (
    BadProgram,
    BpflinkdError,
    Internal,
    LimitExceeded,
    NotSupported,
    VerifierRejected,
)
from bpflinkd.core.sources import MAX_SOURCE
from bpflinkd.kernel import compile as compiling
from bpflinkd.kernel import helper
from bpflinkd.kernel.helper import Limits, Spawned
from tests.lab.leftovers import nothing_left

SOURCE = b"int f(struct xdp_md *ctx) { return XDP_PASS; }\n"

# A helper of a test's own: it listens as the real one does, then misbehaves.
PROLOGUE = """
import ctypes, json, os, resource, signal, socket, sys, time
channel = socket.socket(fileno=0)
message, fds, _, _ = socket.recv_fds(channel, 65536, 2)
request = json.loads(message)
os.dup2(fds[1], 1)
os.dup2(fds[1], 2)
def answer(said, fds=()):
    socket.send_fds(channel, [said if isinstance(said, bytes) else json.dumps(said).encode()], list(fds))
    time.sleep(60)
"""


def run(script: str, function: str | None = None, *, seconds: float = 20.0, prologue: str = PROLOGUE) -> None:
    """Run a helper that must not succeed, as our child and who we are."""
    ask(Spawned(script=(prologue + script).encode(), launcher=()), function, seconds=seconds)


def ask(way: helper.Way, function: str | None = None, *, seconds: float = 20.0) -> None:
    limits = Limits(seconds=seconds, memory=1 << 28)
    compiling.run_helper(way, SOURCE, function, attach_types.XDP, limits=limits).close()


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with nothing_left():
        yield


def test_a_source_is_read_whole_wherever_the_offset_is() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(SOURCE)
        file.flush()
        assert compiling.read_source(file.fileno()) == SOURCE


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"int x;\0", "NUL byte", id="a NUL byte"),
        pytest.param(b"\x7fELF\2\1\1\0\0", "is an ELF object", id="an object in its place"),
        pytest.param(b" " * (MAX_SOURCE + 1), "at most 1048576", id="too long by one"),
    ],
)
def test_bad_contents_are_refused(content: bytes, sentence: str) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        with pytest.raises(BadProgram, match=sentence):
            compiling.read_source(file.fileno())


def test_a_source_of_the_greatest_length_is_taken() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b" " * MAX_SOURCE)
        file.flush()
        assert len(compiling.read_source(file.fileno())) == MAX_SOURCE


def test_a_gigabyte_is_refused_unread() -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(1 << 30)
        with pytest.raises(BadProgram, match="1073741824 bytes"):
            compiling.read_source(file.fileno())


@pytest.mark.parametrize("kind", ["/dev/zero", "directory", "fifo"])
def test_what_is_no_regular_file_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path if kind == "directory" else tmp_path / "fifo" if kind == "fifo" else Path(kind)
    if kind == "fifo":
        os.mkfifo(path)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(BadProgram, match="not a regular file"):
            compiling.read_source(fd)
    finally:
        os.close(fd)


def test_a_file_open_for_writing_only_is_refused(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "source.c", os.O_WRONLY | os.O_CREAT)
    try:
        os.write(fd, SOURCE)
        with pytest.raises(BadProgram, match="cannot be read"):
            compiling.read_source(fd)
    finally:
        os.close(fd)


FIRST_ERROR = "1 error at source.c:2:10: use of undeclared identifier 'XDP_PAS'"
CLANG = """/virtual/main.c:2:10: error: use of undeclared identifier 'XDP_PAS'
  return XDP_PAS;
1 error generated.
"""


@pytest.mark.parametrize(
    ("script", "error", "sentence"),
    [
        pytest.param("os.abort()", BadProgram, "crashed on this source .SIGABRT.", id="aborts"),
        pytest.param(
            "os.kill(os.getpid(), signal.SIGSEGV)",
            BadProgram,
            "crashed on this source .SIGSEGV.",
            id="crashes",
        ),
        pytest.param(
            "os.kill(os.getpid(), signal.SIGKILL)", BadProgram, "want of memory", id="is killed from outside"
        ),
        pytest.param(
            "resource.setrlimit(resource.RLIMIT_CPU, (1, 6))\nwhile True: pass",
            BadProgram,
            "processor time",
            id="uses up its processor time",
        ),
        pytest.param(
            "resource.setrlimit(resource.RLIMIT_AS, (request['memory'],) * 2)\n"
            "if not ctypes.CDLL(None).malloc(ctypes.c_size_t(1 << 40)):\n"
            "  os.write(2, b'LLVM ERROR: out of memory')\nos.abort()",
            BadProgram,
            "more than 256 MiB of memory",
            id="eats memory, as LLVM says it",
        ),
        pytest.param(
            "resource.setrlimit(resource.RLIMIT_AS, (request['memory'],) * 2)\n"
            "try:\n  bytearray(1 << 30)\nexcept MemoryError:\n  answer({'kind': 'memory', 'log': [0, 0]})",
            BadProgram,
            "more than 256 MiB of memory",
            id="eats memory, as Python says it",
        ),
        pytest.param("sys.exit('no way')", Internal, "status 1 .*: no way", id="gives up"),
        pytest.param("sys.exit(0)", Internal, "status 0 .*: it said nothing", id="ends without a word"),
        pytest.param("answer(b'{')", Internal, "no answer", id="half an object"),
        pytest.param("answer(b'\\xff\\xfe')", Internal, "no answer", id="no text"),
        pytest.param("answer(b'[' * 60000)", Internal, "no answer", id="deeper than the parser goes"),
        pytest.param("answer([1])", Internal, "no answer", id="a list"),
        pytest.param("answer({'kind': 'compile'})", Internal, "no answer", id="no log"),
        pytest.param("answer(b'x' * 70000)", Internal, "more than fits", id="too long"),
        pytest.param("answer({'kind': 'new', 'log': [0, 0]})", Internal, "failed", id="an unknown kind"),
        pytest.param(
            "answer({'kind': 'loaded', 'function': 'f', 'maps': [], 'log': [0, 0]})",
            Internal,
            "do not fit",
            id="no program",
        ),
        pytest.param(
            "answer({'kind': 'loaded', 'function': 'f', 'maps': [], 'log': [0, 0]}, os.pipe()[:1])",
            Internal,
            "not a BPF program but pipe",
            id="a pipe for a program",
        ),
        pytest.param(
            "answer({'kind': 'loaded', 'function': 'f', 'maps': ['m'], 'log': [0, 0]}, [1, 2, 0])",
            Internal,
            "do not fit",
            id="more fds than names",
        ),
        pytest.param(
            "answer({'kind': 'loaded', 'function': 'f', 'maps': ['../m'], 'log': [0, 0]}, [0, 0])",
            Internal,
            "do not fit",
            id="a map name that leads elsewhere",
        ),
        pytest.param(
            "answer({'kind': 'loaded', 'function': 'f', 'maps': ['m', 'm'], 'log': [0, 0]}, [0, 0, 0])",
            Internal,
            "do not fit",
            id="two maps of one name",
        ),
        pytest.param(
            "answer({'kind': 'loaded', 'function': 7, 'maps': 8, 'log': [0, 0]}, [0])",
            Internal,
            "do not fit",
            id="numbers for names",
        ),
        pytest.param(
            "answer({'kind': 'compile', 'log': [0, 0]}, [0] * 253)",
            BadProgram,
            "bcc gave no reason",
            id="fds that nobody asked for",
        ),
        pytest.param(
            f"os.write(2, {CLANG!r}.encode()); answer({{'kind': 'compile', 'log': [0, os.lseek(2, 0, 1)]}})",
            BadProgram,
            re.escape(FIRST_ERROR),
            id="clang's error",
        ),
        pytest.param(
            "answer({'kind': 'no-function', 'functions': ['a', 'b'], 'log': [0, 0]})",
            BadProgram,
            "holds 2 functions; .*: a, b",
            id="several functions",
        ),
        pytest.param(
            "answer({'kind': 'no-function', 'functions': [], 'log': [0, 0]})",
            BadProgram,
            "no function that is not static",
            id="no function",
        ),
        pytest.param(
            "os.write(1, b'0: (95) exit\\nR0 !read_ok\\nprocessed 1 insns\\n')\n"
            "answer({'kind': 'verifier', 'function': 'f', 'log': [0, os.lseek(2, 0, 1)]})",
            VerifierRejected,
            "refused program 'f': R0 !read_ok; its log follows",
            id="the verifier's refusal",
        ),
        pytest.param(
            "answer({'kind': 'load', 'function': 'f', 'errno': 7, 'log': [0, 0]})",
            BadProgram,
            "Argument list too long",
            id="the kernel's refusal",
        ),
        pytest.param(
            "answer({'kind': 'load', 'function': 'f', 'errno': 1, 'log': [0, 0]})",
            NotSupported,
            "CAP_BPF",
            id="no capability",
        ),
        pytest.param(
            "answer({'kind': 'refused', 'error': 'LimitExceeded', 'text': 'why', 'log': [0, 0]})",
            LimitExceeded,
            "why",
            id="a refusal of ours",
        ),
        pytest.param(
            "answer({'kind': 'headers', 'log': [0, 0]})", NotSupported, "linux-headers-", id="no headers"
        ),
        pytest.param("answer({'kind': 'no-bcc', 'log': [0, 0]})", NotSupported, "python3-bpfcc", id="no bcc"),
    ],
)
def test_a_helper_that_fails_is_a_sentence(script: str, error: type[BpflinkdError], sentence: str) -> None:
    started = time.monotonic()
    with pytest.raises(error, match=sentence):
        run(script)
    assert time.monotonic() - started < 15


def test_a_helper_that_hangs_is_killed_with_its_children() -> None:
    with tempfile.NamedTemporaryFile() as file:
        script = f"""
if not os.fork():
    open({file.name!r}, "w").write(str(os.getpid()))
    time.sleep(60)
time.sleep(60)
"""
        with pytest.raises(BadProgram, match="still being compiled after 1 s"):
            run(script, seconds=1.0)
        child = int(Path(file.name).read_text(encoding="ascii"))
        deadline = time.monotonic() + 10
        while _runs(child):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _runs(pid: int) -> bool:
    """Whether it is alive. Who reaps our grandchildren is not us."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def test_a_helper_that_closes_its_end_unheard_is_a_sentence() -> None:
    with pytest.raises(Internal, match="status 3"):
        run("import os, sys; os.close(0); sys.exit(3)", prologue="")


def test_a_helper_that_closes_its_end_and_stays_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "_GRACE", 0.2)
    with pytest.raises(BadProgram, match="SIGKILL"):
        run("import os, time; os.close(0); time.sleep(60)", prologue="")


def test_a_helper_that_cannot_be_started_is_a_sentence() -> None:
    with pytest.raises(Internal, match="cannot be started: /nonexistent/setpriv: No such file"):
        ask(Spawned(script=b"", launcher=("/nonexistent/setpriv",)))


def test_the_helper_gets_the_request_and_a_source_that_nobody_can_change() -> None:
    digest = hashlib.sha256(SOURCE).hexdigest()
    script = """
import hashlib
data = os.pread(fds[0], 1 << 20, 0)
try:
    os.pwrite(fds[0], b"x", 0)
    changed = True
except OSError:
    changed = False
told = [request, hashlib.sha256(data).hexdigest(), changed, sorted(os.environ), os.getcwd(), sys.argv[1:]]
told.append(os.getsid(0) == os.getpid())
answer({"kind": "internal", "text": json.dumps(told), "log": [0, 0]})
"""
    with pytest.raises(Internal) as caught:
        run(script, "f")
    told = json.loads(str(caught.value).removeprefix("the compiler process failed: "))
    assert told == [
        {
            "do": "compile",
            "function": "f",
            "type": 6,
            "attach_type": 37,
            "perfmon": True,
            "log_level": 0,
            "memory": 1 << 28,
            "seconds": 20,
        },
        digest,
        False,
        ["HOME", "LC_ALL", "PATH"],
        "/",
        [],
        True,
    ]


def test_the_helper_holds_no_fd_of_ours_but_its_own() -> None:
    read, write = os.pipe()
    try:
        os.set_inheritable(read, True)
        with pytest.raises(Internal) as caught:
            run("answer({'kind': 'internal', 'text': ' '.join(os.listdir('/proc/self/fd')), 'log': [0, 0]})")
    finally:
        os.close(read)
        os.close(write)
    # Its socket, 1, 2, its text, the source, the log, and the directory being listed.
    assert len(str(caught.value).partition(": ")[2].split()) == 7


def test_what_is_written_beyond_the_log_is_lost_and_the_rest_is_kept() -> None:
    script = """
try:
    while True:
        os.write(2, b"x" * 65536)
except PermissionError:
    answer({"kind": "compile", "log": [0, 1 << 40]})
"""
    with pytest.raises(BadProgram) as caught:
        run(script)
    assert len(caught.value.log) == helper.MAX_LOG


def test_a_log_moves_no_cursor_and_names_the_source() -> None:
    script = """
os.write(2, b"\\x1b[31m/virtual/main.c:1:2: error: a \\xff b\\n")
answer({"kind": "compile", "log": [0, 100]})
"""
    with pytest.raises(BadProgram) as caught:
        run(script)
    assert caught.value.log == "\ufffd[31msource.c:1:2: error: a \ufffd b"


@pytest.mark.parametrize("function", ["", "a b", "f;", "9f", "x" * 129, "\u00e9", "f\n"])
def test_what_is_no_name_of_a_function_is_refused_before_anything_starts(function: str) -> None:
    with pytest.raises(BadProgram, match="not the name of a C function"):
        ask(Spawned(script=b"", launcher=("/nonexistent",)), function)


def test_without_bcc_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_DIST_PACKAGES", "/nonexistent")
    with pytest.raises(NotSupported, match="install the package python3-bpfcc"):
        compiling.compile_source(SOURCE, None, attach_types.XDP)


def test_without_headers_nothing_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc" / "__init__.py").touch()
    monkeypatch.setattr(compiler, "_DIST_PACKAGES", str(tmp_path))
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(release="0.0.1-none"))
    with pytest.raises(NotSupported, match=r"install the package linux-headers-0\.0\.1-none"):
        compiling.compile_source(SOURCE, None, attach_types.XDP)


# A compiler that is not our child, but comes with a connection


ENDING = f"""
sys.path.append({str(Path(compiling.__file__).parents[2])!r})
from bpflinkd.compiler import end_with
end_with(channel)
"""


class Listener:
    """Does as systemd with Accept=yes: starts a program for a connection, which is its standard input."""

    def __init__(self, place: Path, *words: str) -> None:
        self.place = place
        self.status: int | None = None
        self._words = ("/usr/bin/python3", "-I", "-S", "-B", *words)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(str(place))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def wait(self) -> int | None:
        """How the program ended."""
        self._thread.join(30)
        return self.status

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.wait()
        self._socket.close()

    def _serve(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return
        with connection:
            process = subprocess.Popen(self._words, stdin=connection.fileno(), stderr=subprocess.DEVNULL)
        self.status = process.wait()


@contextlib.contextmanager
def listening(*words: str) -> Iterator[Listener]:
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.closing(Listener(Path(directory) / "socket", *words)) as listener,
    ):
        yield listener


@pytest.mark.parametrize(
    ("script", "error", "sentence"),
    [
        pytest.param(
            f"os.write(2, {CLANG!r}.encode()); answer({{'kind': 'compile', 'log': [0, os.lseek(2, 0, 1)]}})",
            BadProgram,
            re.escape(FIRST_ERROR),
            id="answers",
        ),
        pytest.param(
            "os.kill(os.getpid(), signal.SIGSEGV)", BadProgram, "crashed, .* journalctl -u", id="crashes"
        ),
        pytest.param(
            "os.kill(os.getpid(), signal.SIGKILL)", BadProgram, "for want of memory", id="is killed"
        ),
        pytest.param(
            "os.write(2, b'LLVM ERROR: out of memory'); os.abort()",
            BadProgram,
            "more than 256 MiB of memory",
            id="eats memory",
        ),
        pytest.param("answer(b'{')", Internal, "no answer", id="answers nonsense"),
        pytest.param(
            "answer({'kind': 'loaded', 'function': 'f', 'maps': [], 'log': [0, 0]}, os.pipe()[:1])",
            Internal,
            "not a BPF program but pipe",
            id="sends a pipe",
        ),
    ],
)
def test_a_compiler_at_a_socket_that_fails_is_a_sentence(
    script: str, error: type[BpflinkdError], sentence: str
) -> None:
    with listening("-c", PROLOGUE + ENDING + script) as listener, pytest.raises(error, match=sentence):
        ask(listener.place)


@pytest.mark.parametrize("script", ["", "raise SystemExit(1)", "import os; os.abort()"])
def test_a_compiler_that_never_took_up_the_request_did_not_start(script: str) -> None:
    with listening("-c", script) as listener, pytest.raises(Internal, match="did not start; see journalctl"):
        ask(listener.place)


def test_a_compiler_at_a_socket_ends_at_once_when_we_give_up() -> None:
    with listening("-c", PROLOGUE + ENDING + "while True: pass") as listener:
        with pytest.raises(BadProgram, match="still being compiled after 1 s"):
            ask(listener.place, seconds=1.0)
        begun = time.monotonic()
        assert listener.wait() == -signal.SIGIO
        assert time.monotonic() - begun < 5


def test_a_compiler_that_is_too_late_to_hear_that_we_gave_up_ends_too() -> None:
    """Whoever asked may be gone before anybody watches."""
    script = PROLOGUE + "channel.recv(1)\n" + ENDING + "time.sleep(60)"
    with listening("-c", script) as listener:
        with pytest.raises(BadProgram, match="still being compiled"):
            ask(listener.place, seconds=1.0)
        assert listener.wait() == 0


def test_nobody_at_the_socket_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match=r"nobody listens at .*systemctl start bpflinkd-compiler\.socket"):
        ask(tmp_path / "socket")
    assert "nobody listens" in compiling.unsupported(tmp_path / "socket")


def test_the_compiler_itself_says_what_this_host_lacks() -> None:
    with listening(str(compiler.__file__)) as listener:
        assert compiling.unsupported(listener.place) == compiling.unsupported()
        # We hang up on an answer, which may be before it ends by itself.
        assert listener.wait() in {0, -signal.SIGIO}


@pytest.mark.parametrize(
    ("script", "lacks"),
    [
        pytest.param("answer({'kind': 'ready', 'log': [0, 0]})", "", id="nothing"),
        pytest.param("answer({'kind': 'headers', 'log': [0, 0]})", "linux-headers-", id="headers"),
        pytest.param("answer({'kind': 'internal', 'log': [0, 0]})", "failed", id="a fault"),
        pytest.param("os.abort()", "did not answer; see journalctl", id="crashes"),
    ],
)
def test_what_a_host_lacks_is_asked_where_we_cannot_see_it(script: str, lacks: str) -> None:
    with listening("-c", PROLOGUE + ENDING + "assert request['do'] == 'probe'\n" + script) as listener:
        said = compiling.unsupported(listener.place)
    assert lacks in said
    assert bool(lacks) == bool(said)
