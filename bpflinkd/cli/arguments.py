"""NAME, TARGET and SOURCE of the command line, parsed into what the client takes."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeVar

import click

from bpflinkd.cli.failures import InputError
from bpflinkd.cli.kinds import Text
from bpflinkd.core import targets, written
from bpflinkd.core.errors import BadTarget
from bpflinkd.core.patterns import CgroupPattern, InterfacePattern
from bpflinkd.dbus.values import CgroupTarget, KprobeTarget, OpenObject, OpenSource, Source, Target, XdpTarget

_U32_MAX: Final = 2**32 - 1
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
    try:
        found = written.target(text, mode=mode, attach_type=attach_type, cookie=cookie)
    except BadTarget as error:
        raise click.UsageError(f"{error}{'' if str(error).endswith('?') else '.'}") from None
    match found:
        case targets.XdpTarget(interface=interface):
            return XdpTarget(interface, mode)
        case targets.CgroupTarget(path=path, attach_type=kind):
            return CgroupTarget(path, kind.name)
        case targets.CgroupPlace(path=path):
            return CgroupTarget(path)
        case targets.KprobeTarget(symbol=symbol, offset=offset, at_return=at_return):
            return KprobeTarget(symbol, offset, at_return, False, cookie or 0)
        case targets.KprobeMultiTarget(pattern=pattern, at_return=at_return):
            return KprobeTarget(pattern, 0, at_return, True, cookie or 0)
        case InterfacePattern() | CgroupPattern():
            raise click.UsageError(
                f"{str(found)!r} is a pattern, and a link has one target; what many share is declared as a "
                "template, in a file of /etc/bpflinkd/links.d (docs/links.md)."
            )


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
