"""The process that compiles C with bcc, or loads an ELF object, sends the fds of one program, and ends.

Run as `python compiler.py` with its end of a SOCK_SEQPACKET connection as fd 0: by systemd as the unit
`bpflinkd-compiler@`, or by a daemon that is not a service, as a child. Clang, LLVM and the objects of callers
who are not root are read here and never in the daemon.

It is run by another Python than the daemon's, so it has the standard library, Debian's bcc, and a few modules
of bpflinkd, which lie beside it and need nothing else.

It takes one message: JSON `{"do": "probe"}`, or one of

    {"do": "compile", "function": str | null, "type": int, "attach_type": int, "perfmon": bool}
    {"do": "load", "program": str | null, "type": int | null, "attach_type": int | null, "given": bool,
     "perfmon": bool, "maps": int, "map_memory": int, "constants": {str: str}}

perhaps with `"log_level": int`, as `loading.load` has it; and
with the limits `"memory"`, bytes of address space, and `"seconds"` of processor time; and two fds: the
source or object, and a file for all that is said on the way, which becomes fds 1 and 2. Where `perfmon` is
false it gives up CAP_PERFMON before it reads any of the first. `maps` and `map_memory` limit the maps of an
object, their number and their bytes.

Where the program is to replace another, there is also `"carry": {"running": [[name, type, key size, value
size, max_entries, flags], ...], "fresh": bool, "choices": [[name, "keep" | "fresh"], ...]}`, as in
`core/maps.py`, and a fd more for each of the running maps.

It answers one: JSON `{"kind": str, "log": [start, end], ...}`, where `log` is the part of that file, by
offset, that belongs to the answer. The kinds:

    ready        to a probe: sources can be compiled
    no-bcc       they cannot: Debian's bcc is not there
    headers      they cannot: the headers of the running kernel are not there, or bcc did not find them
    loaded       `function`: its name, `maps`: names; the program's fd comes along, then one for each map.
                 For an object also `declared`: the attach type that it is loaded for, or null
    no-function  `functions`: what the source has
    compile      clang refused the source
    maps         it compiled, and a map could not be created
    verifier     the verifier refused `function`
    load         the kernel refused `function` for another reason; `errno` says which
    refused      it is not to be loaded, or an object cannot be: `error` is the name of a class of
                 bpflinkd.core.errors, `text` its sentence
    memory       Python ran out of it; LLVM would abort instead
    internal     `text`: anything else
"""

import ctypes
import fcntl
import importlib
import importlib.machinery
import json
import os
import re
import resource
import select
import socket
import struct
import sys
from typing import Any, Final

_DIST_PACKAGES: Final = "/usr/lib/python3/dist-packages"
"""Where Debian's python3-bpfcc is; PyPI has another thing of the name bcc."""
_MOST_FDS: Final = 253
"""In one message: SCM_MAX_FD."""
_MOST_MAPS: Final = _MOST_FDS - 1
"""Those, less the program's."""
_MESSAGE: Final = 1 << 17
_DEBUG_BPF: Final = 2
"""bcc: ask for the verifier's log, whatever becomes of the program."""
_DEBUGS: Final = (0, _DEBUG_BPF, 0x10)
"""bcc: by what the verifier is to write on a program that it takes."""
_MOST_LOG: Final = 1 << 18
"""Bytes of the file for what is said."""
_MOST_TEXT: Final = 4000
_SOURCE_AND_CODE: Final = 0xF0FF
"""Of a little-endian `struct bpf_insn`: code and source register."""
_LOAD_MAP: Final = 0x1018
"""BPF_LD | BPF_IMM | BPF_DW with BPF_PSEUDO_MAP_FD; the fd is its imm."""
_CAP_PERFMON: Final = 38
_CAPABILITY_VERSION_3: Final = 0x20080522
_NO_HEADERS: Final = re.compile(r"Unable to find kernel headers|chdir\(/lib/modules/")
_NO_MAP: Final = re.compile(r"could not open bpf map|failed to pin map")


class _CannotLoad(Exception):
    """The answer is decided; `args[0]` is it."""


def limit(memory: int, seconds: int) -> None:
    """Give up what neither compiling nor loading has a use for. The hard limits cannot be raised again."""
    kept = {
        resource.RLIMIT_AS: memory,
        # Only fd 2 is a file that it may write to; the daemon has fixed the size of that.
        resource.RLIMIT_FSIZE: 1 << 18,
        resource.RLIMIT_CORE: 0,
        # It starts neither processes nor threads, so killing it kills all of it.
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: 1024,
        # Or a source that takes long would keep all others from a processor.
        resource.RLIMIT_RTPRIO: 0,
    }
    for which, most in kept.items():
        resource.setrlimit(which, (most, most))
    # At the soft limit comes SIGXCPU, which says what it is; at the hard one SIGKILL, which does not.
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))


def give_up_perfmon() -> None:
    """Drop CAP_PERFMON for good: what it leaves no set holds, no system call brings back.

    Without it the verifier refuses what reads or tells addresses and memory of the kernel. The bounding set
    keeps it, and gives it to nobody: this process may not gain privileges by execve(2). OSError.
    """
    # struct __user_cap_header_struct, then two of __user_cap_data_struct: effective, permitted, inheritable.
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, sets) == 0:
        for i in (3, 4, 5):  # the upper half
            sets[i] &= ~(1 << (_CAP_PERFMON - 32))
        # The ambient set follows the permitted one. Source: security/commoncap.c cap_capset().
        if libc.capset(header, sets) == 0:
            return
    code = ctypes.get_errno()
    raise OSError(code, f"CAP_PERFMON cannot be given up: {os.strerror(code)}")


def end_with(channel: socket.socket) -> None:
    """Be killed at once when the other end is closed: whoever asked gave up, or is gone.

    SIGIO comes for anything that happens to the channel, and the other end sends nothing more. Its default
    action is the end, whatever LLVM is doing; a handler of Python's would wait. Source: unix_release_sock().
    """
    fcntl.fcntl(channel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(channel, fcntl.F_SETFL, fcntl.fcntl(channel, fcntl.F_GETFL) | os.O_ASYNC)
    closed = select.poll()
    closed.register(channel, 0)
    if closed.poll(0):  # before that
        os._exit(0)


def lacking() -> str:
    """The kind of answer that tells what this host lacks to compile C; empty where it lacks nothing."""
    # The search path is given: what another Python sees is not what this one does.
    if importlib.machinery.PathFinder.find_spec("bcc", [_DIST_PACKAGES]) is None:
        return "no-bcc"
    # Headers within the kernel (/sys/kernel/kheaders.tar.xz) do not help: Debian's kernels have none, and bcc
    # would unpack them to /tmp with tar, while this process may start no other.
    return "" if os.path.isdir(f"/lib/modules/{os.uname().release}/build") else "headers"


def answer(request: dict[str, Any], source: bytes) -> tuple[dict[str, Any], list[int]]:
    """Do what is asked. Returns the answer, and the fds that go with it."""
    if request["do"] == "load":
        return _load_object(request, source)
    lacks = lacking()
    if lacks or request["do"] == "probe":
        return {"kind": lacks or "ready", "log": [0, 0]}, []
    errors = _ours("core.errors")
    if _DIST_PACKAGES not in sys.path:
        sys.path.append(_DIST_PACKAGES)
    bcc: Any = importlib.import_module("bcc")

    class Module(bcc.BPF):  # type: ignore[misc]
        def _trace_autoload(self) -> None:
            """bcc would attach functions called kprobe__* and the like here. The daemon attaches."""

    try:
        module = _compile(Module, source)
        name = _choose(bcc.lib, module, request["function"])
        if not request["perfmon"]:
            _ours("kernel.confined").check_instructions(name, instructions(module, name))
        maps = _maps(bcc.lib, module)
        maps |= _carry_over(bcc.lib, module, name, maps, _carry(request))
        program, log = _load(module, name, request)
    except _CannotLoad as refusal:
        return refusal.args[0], []
    except errors.BpflinkdError as refusal:
        return _refused(refusal), []
    return {"kind": "loaded", "function": name, "maps": list(maps), "log": log}, [program, *maps.values()]


def _ours(name: str) -> Any:
    """A module of bpflinkd, found beside this one: Python looks there only for what it was told to run."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if root not in sys.path:
        sys.path.append(root)
    return importlib.import_module(f"bpflinkd.{name}")


def _refused(error: Any) -> dict[str, Any]:
    """The answer for one of bpflinkd's errors."""
    # The end of the log, where the verifier's last word is.
    log = error.log.encode(errors="replace")[-_MOST_LOG:]
    os.pwrite(2, log, 0)
    text, name = str(error)[:_MOST_TEXT], type(error).__name__
    return {"kind": "refused", "error": name, "text": text, "log": [0, len(log)]}


def instructions(module: Any, name: str) -> list[int]:
    """Those of a function that bcc has compiled, `struct bpf_insn` each as the u64 that it is in memory."""
    return [word for (word,) in struct.iter_unpack("=Q", module.dump_func(name.encode()))]


def _load_object(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], list[int]]:
    attach_types, errors = _ours("core.attach_types"), _ours("core.errors")
    confined, loading, maps = _ours("kernel.confined"), _ours("kernel.loading"), _ours("kernel.maps")
    kind, number = request["type"], request["attach_type"]
    wanted = None
    if kind is not None:
        wanted = next(a for a in attach_types.of_program_type(kind) if a.number == number)
    most = maps.MapLimits(min(request["maps"], _MOST_MAPS), request["map_memory"])
    limits = confined.Confined(most, kernel_memory=request["perfmon"])
    try:
        found = loading.load(
            data,
            request["program"],
            wanted,
            given=request["given"],
            confined=limits,
            constants=request["constants"],
            carry=_carry(request),
            log_level=request.get("log_level", 0),
        )
    except errors.BpflinkdError as refusal:
        return _refused(refusal), []
    declared = found.declared and found.declared.number
    said = {"kind": "loaded", "function": found.name, "maps": list(found.map_fds), "declared": declared}
    log = found.log.encode(errors="replace")[-_MOST_LOG:]
    os.pwrite(2, log, 0)
    return {**said, "log": [0, len(log)]}, [found.fd, *found.map_fds.values()]


def _carry(request: dict[str, Any]) -> Any:
    """What the running program leaves to this one; None where there is none."""
    if "carry" not in request:
        return None
    maps, loading = _ours("core.maps"), _ours("kernel.loading")
    told = request["carry"]
    choices = tuple((name, maps.MapChoice(choice)) for name, choice in told["choices"])
    running = tuple(
        loading.RunningMap(maps.MapShape(*shape), fd)
        for shape, fd in zip(told["running"], request["map_fds"], strict=True)
    )
    return loading.Carry(running, maps.MapWishes(fresh=told["fresh"], choices=choices))


def _carry_over(lib: Any, module: Any, name: str, fresh: dict[str, int], carry: Any) -> dict[str, int]:
    """Let a function that bcc has compiled use running maps instead of those that bcc made; returns the fds.

    An instruction that loads the address of a map has its fd until it is loaded, and lies in memory of ours.
    """
    if carry is None:
        return {}
    shape = _ours("core.maps").MapShape
    numbers = (
        *("bpf_table_type_id", "bpf_table_key_size_id", "bpf_table_leaf_size_id"),
        *("bpf_table_max_entries_id", "bpf_table_flags_id"),
    )
    for function in numbers:
        getattr(lib, function).argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    lib.bpf_table_key_size_id.restype = lib.bpf_table_leaf_size_id.restype = ctypes.c_size_t
    shapes = [
        shape(each, *(getattr(lib, function)(module.module, i) for function in numbers))
        for i, each in enumerate(fresh)
    ]
    kept: dict[str, int] = carry.kept(shapes)
    instead = {fresh[each]: fd for each, fd in kept.items()}
    lib.bpf_function_start.restype = ctypes.c_void_p
    start = lib.bpf_function_start(module.module, name.encode())
    code = (ctypes.c_uint64 * (lib.bpf_function_size(module.module, name.encode()) // 8)).from_address(start)
    for i, word in enumerate(code):
        if word & _SOURCE_AND_CODE == _LOAD_MAP and (word >> 32) in instead:
            code[i] = (word & 0xFFFF_FFFF) | instead[word >> 32] << 32
    return kept


def _compile(module_class: Any, source: bytes) -> Any:
    start = _said()
    try:
        # The kernel's own headers draw hundreds of warnings, in which an error would be lost.
        return module_class(text=source, cflags=["-w"])
    except MemoryError:
        raise
    except Exception:  # bcc raises nothing narrower  # noqa: BLE001, RUF100
        log = [start, _said()]
        text = os.pread(2, log[1] - start, start).decode(errors="replace")
        kind = "maps" if _NO_MAP.search(text) else "compile"
        if " error: " not in text and _NO_HEADERS.search(text):
            kind = "headers"
        raise _CannotLoad({"kind": kind, "log": log}) from None


def _choose(lib: Any, module: Any, wanted: str | None) -> str:
    count = lib.bpf_num_functions(module.module)
    found = [lib.bpf_function_name(module.module, i).decode(errors="replace") for i in range(count)]
    if wanted is None and len(found) == 1:
        return str(found[0])
    if wanted not in found:
        raise _CannotLoad({"kind": "no-function", "functions": found[:100], "log": [0, 0]})
    return str(wanted)


def _maps(lib: Any, module: Any) -> dict[str, int]:
    # Not declared in bcc/libbcc.py: without types ctypes would cut the module's address to 32 bits.
    lib.bpf_num_tables.restype = ctypes.c_size_t
    lib.bpf_num_tables.argtypes = [ctypes.c_void_p]
    lib.bpf_table_name.restype = ctypes.c_char_p
    lib.bpf_table_name.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    lib.bpf_table_fd_id.restype = ctypes.c_int
    lib.bpf_table_fd_id.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    found = {}
    for i in range(lib.bpf_num_tables(module.module)):
        name = lib.bpf_table_name(module.module, i).decode(errors="replace")
        found[name] = lib.bpf_table_fd_id(module.module, i)
    if len(found) > _MOST_MAPS:
        text = f"the source has {len(found)} maps; at most {_MOST_MAPS} are accepted"
        raise _CannotLoad({"kind": "internal", "text": text, "log": [0, 0]})
    return found


def _load(module: Any, name: str, request: dict[str, Any]) -> tuple[int, list[int]]:
    """The program's fd, and where its log is, if one is wanted. Without a log at the first try, ask for one:
    some refusals come with none."""
    code = 0
    start = _said()
    wanted = _DEBUGS[request.get("log_level", 0)]
    for debug in (wanted, _DEBUG_BPF):
        module.debug = debug
        ctypes.set_errno(0)
        try:
            loaded = module.load_func(name.encode(), request["type"], attach_type=request["attach_type"])
            return int(loaded.fd), [start, _said()] if wanted else [0, 0]
        except MemoryError:
            raise
        except Exception:  # bcc raises nothing narrower  # noqa: BLE001, RUF100
            code = code or ctypes.get_errno()
        if "processed " in os.pread(2, _said() - start, start).decode(errors="replace"):
            raise _CannotLoad({"kind": "verifier", "function": name, "log": [start, _said()]})
    raise _CannotLoad({"kind": "load", "function": name, "errno": code, "log": [start, _said()]})


def _said() -> int:
    """How far fd 2 has been written. Clang and libbcc write there from C++, some of it through stdout."""
    ctypes.CDLL(None).fflush(None)
    return os.lseek(2, 0, os.SEEK_CUR)


def main() -> None:
    """Serve one request and end."""
    with socket.socket(fileno=0) as channel:
        message, fds, _, _ = socket.recv_fds(channel, _MESSAGE, _MOST_FDS)
        if not message:
            return
        source_fd, log_fd, *map_fds = fds
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        end_with(channel)
        request = {**json.loads(message), "map_fds": map_fds}
        limit(request["memory"], request["seconds"])
        fds_to_send: list[int] = []
        try:
            if not request.get("perfmon", False):
                give_up_perfmon()
            source = os.pread(source_fd, os.fstat(source_fd).st_size, 0)
            said, fds_to_send = answer(request, source)
        except MemoryError:
            said = {"kind": "memory", "log": [0, 0]}
        except Exception as error:  # the daemon is told whatever it is  # noqa: BLE001, RUF100
            text = f"{type(error).__name__}: {error}"[:1000]
            said = {"kind": "internal", "text": text, "log": [0, 0]}
        socket.send_fds(channel, [json.dumps(said).encode()], fds_to_send)
        # Not sys.exit: bcc's exit handler and LLVM's destructors have nothing to do for us.
        os._exit(0)


if __name__ == "__main__":
    main()
