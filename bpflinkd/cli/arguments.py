"""NAME, TARGET and SOURCE of the command line, parsed into what the client takes."""

import difflib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeVar

import click

from bpflinkd.cli.failures import InputError
from bpflinkd.cli.kinds import Text
from bpflinkd.core import attach_types
from bpflinkd.core.errors import BadTarget
from bpflinkd.dbus.client import (
    CgroupTarget,
    KprobeTarget,
    OpenObject,
    OpenSource,
    Source,
    Target,
    XdpTarget,
)

_U32_MAX: Final = 2**32 - 1
KPROBE_KINDS: Final = ("kprobe", "kretprobe", "kprobe-multi", "kretprobe-multi")
_KINDS: Final = ("xdp", "cgroup", *KPROBE_KINDS)
_AN_OBJECT: Final = ("object", "an ELF object such as filter.bpf.o")
_A_SOURCE: Final = ("source", "C for bcc such as filter.c")
_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


class SourceOptions(NamedTuple):
    """The options that make a SOURCE, as given."""

    object: str | None
    source: str | None
    program: str | None
    pinned: str | None
    id: int | None
    builtin: str | None


def source_options(command: _Decorated) -> _Decorated:
    """Add the options of a SOURCE to a command."""
    for decorate in reversed(
        (
            click.option(
                "--object",
                metavar="FILE",
                # Not checked by click: a file that cannot be read is refused, not misused.
                type=click.Path(),
                help="An ELF object. It is opened here and sent to the daemon as a descriptor.",
            ),
            click.option(
                "--source",
                metavar="FILE",
                type=click.Path(),
                help="C for bcc, compiled by the daemon. Needs the kernel's headers.",
            ),
            click.option(
                "--program",
                metavar="NAME",
                type=Text(),
                help="The program in the object, or function in the source, if it holds several.",
            ),
            click.option("--pinned", metavar="PATH", type=Text(), help="A program pinned on a bpffs."),
            click.option(
                "--id", metavar="N", type=click.IntRange(1, _U32_MAX), help="A loaded program, by kernel id."
            ),
            click.option(
                "--builtin",
                metavar="NAME",
                type=Text("builtins"),
                help="A program of bpflinkd's own: pass.",
            ),
        )
    ):
        command = decorate(command)
    return command


def target(
    text: str, mode: str | None = None, attach_type: str | None = None, cookie: int | None = None
) -> Target:
    """Parse a TARGET and the options that go with it. Raises click's usage errors."""
    kind, colon, rest = text.partition(":")
    example = "such as xdp:eth0 or cgroup:/web.slice."
    if not colon or kind not in _KINDS or not rest:
        close = difflib.get_close_matches(kind, _KINDS, n=1) if colon else []
        meant = f"did you mean {close[0]}:{rest or 'NAME'}?" if close else ""
        raise click.UsageError(
            f"{text!r} is not a target; write xdp:INTERFACE, cgroup:/PATH, kprobe:FUNCTION, "
            f"kretprobe:FUNCTION, kprobe-multi:PATTERN or kretprobe-multi:PATTERN; {meant or example}"
        )
    if mode is not None and kind != "xdp":
        raise click.UsageError(f"--mode is for xdp targets; a {kind} has no modes.")
    if attach_type is not None and kind != "cgroup":
        raise click.UsageError(f"--attach-type is for cgroup targets; {kind} says it already.")
    if cookie is not None and kind not in KPROBE_KINDS:
        raise click.UsageError("--cookie is for kprobe targets; other programs are not told one.")
    if kind == "xdp":
        return XdpTarget(rest, mode)
    if kind in KPROBE_KINDS:
        return _kprobe(kind, rest, cookie or 0)
    if not rest.startswith("/"):
        raise click.UsageError(f"the cgroup path {rest!r} must begin with a slash, the root of cgroup v2.")
    return _cgroup(rest, attach_type)


def _kprobe(kind: str, rest: str, cookie: int) -> KprobeTarget:
    """`FUNCTION`, `FUNCTION+OFFSET` or a pattern. The daemon knows what a name may hold."""
    at_return, multi = kind.startswith("kret"), kind.endswith("-multi")
    function, plus, offset = rest, "", ""
    if not multi:
        function, plus, offset = rest.partition("+")
    if not plus:
        return KprobeTarget(function, 0, at_return, multi, cookie)
    if at_return:
        raise click.UsageError(f"{kind}:{function} takes no offset: it is hit where the function returns.")
    try:
        return KprobeTarget(function, int(offset, 0), at_return, multi, cookie)
    except ValueError:
        raise click.UsageError(
            f"the offset {offset!r} is not a number of bytes; write it as 16 or 0x10."
        ) from None


def _cgroup(rest: str, attach_type: str | None) -> CgroupTarget:
    """`/path` or, as `list` prints it, `/path egress`. A path may hold spaces."""
    path, space, word = rest.rpartition(" ")
    # A word with a slash is the rest of a path that holds a space.
    if not space or "/" in word:
        return CgroupTarget(rest, _attach_type(attach_type) if attach_type else None)
    if attach_type is None:
        return CgroupTarget(path, _attach_type(word))
    if word in {known.name for known in attach_types.CGROUP_ATTACH_TYPES}:
        raise click.UsageError(f"the target says {word} already; leave --attach-type out.")
    return CgroupTarget(rest, _attach_type(attach_type))


def _attach_type(word: str) -> str:
    try:
        return attach_types.by_name(word).name
    except BadTarget as error:
        raise click.UsageError(f"{error}.") from None


@contextmanager
def opened_source(options: SourceOptions) -> Iterator[OpenObject | OpenSource | Source]:
    """The SOURCE that was given; its file is open while the context lasts."""
    given = [
        f"--{name}"
        for name in ("object", "source", "pinned", "id", "builtin")
        if getattr(options, name) is not None
    ]
    if len(given) != 1:
        got = " and ".join(given) if given else "none"
        raise click.UsageError(
            f"give exactly one of --object, --source, --pinned, --id and --builtin; got {got}."
        )
    path = options.object if options.object is not None else options.source
    if path is None and options.program is not None:
        raise click.UsageError(
            "--program names a program in an --object or --source; it does not go with " + given[0] + "."
        )
    if path is not None:
        is_object = options.object is not None
        descriptor = _open(path, *(_AN_OBJECT if is_object else _A_SOURCE))
        try:
            yield (OpenObject if is_object else OpenSource)(descriptor, options.program)
        finally:
            os.close(descriptor)
        return
    known = {"pin": options.pinned, "id": options.id, "builtin": options.builtin}
    yield from (Source(kind, value) for kind, value in known.items() if value is not None)


def _open(path: str, what: str, such_as: str) -> int:
    try:
        # Without O_NONBLOCK a FIFO would make us wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InputError(f"the {what} file {path} cannot be opened: {error.strerror}") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        found = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise InputError(f"the {what} file {path} is {found}; give {such_as}")
    return descriptor
