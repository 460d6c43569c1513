"""NAME, TARGET and SOURCE of the command line, parsed into what the client takes."""

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
from bpflinkd.dbus.client import CgroupTarget, OpenObject, Source, XdpTarget

_U32_MAX: Final = 2**32 - 1
_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


class SourceOptions(NamedTuple):
    """The options that make a SOURCE, as given."""

    object: str | None
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
                "--program",
                metavar="NAME",
                type=Text(),
                help="The program in the object, if it holds several.",
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


def target(text: str, mode: str | None = None, attach_type: str | None = None) -> XdpTarget | CgroupTarget:
    """Parse a TARGET and the options that go with it. Raises click's usage errors."""
    kind, colon, rest = text.partition(":")
    if not colon or kind not in ("xdp", "cgroup") or not rest:
        raise click.UsageError(
            f"{text!r} is not a target; write xdp:INTERFACE or cgroup:/PATH, "
            "such as xdp:eth0 or cgroup:/web.slice."
        )
    if kind == "xdp":
        if attach_type is not None:
            raise click.UsageError("--attach-type is for cgroup targets; an interface has XDP only.")
        return XdpTarget(rest, mode)
    if mode is not None:
        raise click.UsageError("--mode is for xdp targets; a cgroup has no modes.")
    if not rest.startswith("/"):
        raise click.UsageError(f"the cgroup path {rest!r} must begin with a slash, the root of cgroup v2.")
    return _cgroup(rest, attach_type)


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
def opened_source(options: SourceOptions) -> Iterator[OpenObject | Source]:
    """The SOURCE that was given; its file is open while the context lasts."""
    given = [
        f"--{name}" for name in ("object", "pinned", "id", "builtin") if getattr(options, name) is not None
    ]
    if len(given) != 1:
        got = " and ".join(given) if given else "none"
        raise click.UsageError(f"give exactly one of --object, --pinned, --id and --builtin; got {got}.")
    if options.program is not None and options.object is None:
        raise click.UsageError(
            "--program names a program in an --object; it does not go with " + given[0] + "."
        )
    if options.object is not None:
        descriptor = _open(options.object)
        try:
            yield OpenObject(descriptor, options.program)
        finally:
            os.close(descriptor)
        return
    known = {"pin": options.pinned, "id": options.id, "builtin": options.builtin}
    yield from (Source(kind, value) for kind, value in known.items() if value is not None)


def _open(path: str) -> int:
    try:
        # Without O_NONBLOCK a FIFO would make us wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InputError(f"the object file {path} cannot be opened: {error.strerror}") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise InputError(f"the object file {path} is {what}; give an ELF object such as filter.bpf.o")
    return descriptor
