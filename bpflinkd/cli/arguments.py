"""TARGET, SOURCE and OWNER of the command line, parsed into what the client takes."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import click

from bpflinkd.cli.kinds import Pair, Text, option_for
from bpflinkd.client import owners, targets
from bpflinkd.client.errors import BadInput
from bpflinkd.client.owners import Owner
from bpflinkd.client.programs import Builtin, CSource, Object, Pinned, Program, ProgramFd, ProgramId
from bpflinkd.client.targets import Target
from bpflinkd.core.sources import BUILTINS

_U32_MAX: Final = 2**32 - 1
_FD_MAX: Final = 2**31 - 1
_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


class SourceOptions(NamedTuple):
    """The options that make a SOURCE, as given."""

    object: str | None
    source: str | None
    program: str | None
    pinned: str | None
    id: int | None
    fd: int | None
    builtin: str | None
    set: tuple[tuple[str, str], ...]


def source_options(command: _Decorated) -> _Decorated:
    """Add the options of a SOURCE to a command."""
    for decorate in reversed(
        (
            click.option(
                "--object",
                metavar="FILE",
                # Not checked by click: a file that cannot be read is refused, not misused.
                type=click.Path(),
                help="An ELF object. It is read here and sent to the daemon as a sealed copy.",
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
                "--fd",
                metavar="N",
                type=click.IntRange(0, _FD_MAX),
                help="A loaded program, by a descriptor that bpflinkctl inherits.",
            ),
            click.option(
                "--builtin",
                metavar="NAME",
                type=Text("builtins"),
                help="A program of bpflinkd's own: pass.",
            ),
            click.option(
                "--set",
                metavar="CONSTANT=VALUE",
                type=Pair(),
                multiple=True,
                help="Give a global constant of the object ('const volatile') its value. Repeatable.",
            ),
        )
    ):
        command = decorate(command)
    return command


def source_of(given: Mapping[str, Any]) -> SourceOptions:
    """The options of a SOURCE among those of a command."""
    return SourceOptions(*(given[field] for field in SourceOptions._fields))


def target(
    text: str, mode: str | None = None, attach_type: str | None = None, cookie: int | None = None
) -> Target:
    """Parse a TARGET and the options that go with it. Raises click's usage errors."""
    try:
        return targets.parse(text, mode=mode, attach_type=attach_type, cookie=cookie)
    except BadInput as error:
        option = option_for(text)
        if option:
            raise click.UsageError(f"{text!r} is a file, not a target; give it with {option}.") from None
        raise _usage(error) from None


def owner(text: str) -> Owner:
    """Parse an OWNER. Raises click's usage errors."""
    try:
        return owners.parse(text)
    except BadInput as error:
        raise _usage(error) from None


def program(options: SourceOptions) -> Program:
    """The SOURCE that was given. Raises click's usage errors; its file is not looked at."""
    given = [
        f"--{name}"
        for name in options._fields
        if name not in ("program", "set") and getattr(options, name) is not None
    ]
    if len(given) != 1:
        got = " and ".join(given) if given else "none"
        raise click.UsageError(
            f"give exactly one of --object, --source, --pinned, --id, --fd and --builtin; got {got}."
        )
    if options.set and options.object is None:
        raise click.UsageError(f"--set is for constants of an --object; it does not go with {given[0]}.")
    match options:
        case SourceOptions(object=str(file)):
            return Object(file, options.program, dict(options.set) or None)
        case SourceOptions(source=str(file)):
            return CSource(file, options.program)
        case SourceOptions(program=str()):
            raise click.UsageError(
                "--program names a program in an --object or --source; it does not go with " + given[0] + "."
            )
        case SourceOptions(pinned=str(path)):
            return Pinned(path)
        case SourceOptions(id=int(number)):
            return ProgramId(number)
        case SourceOptions(fd=int(number)):
            return ProgramFd(number)
        case _:
            return Builtin(str(options.builtin))


def fallback(word: str) -> Program:
    """A FALLBACK: the name of a built-in program, or else an ELF object that holds one program."""
    return Builtin(word) if word in BUILTINS else Object(word)


def _usage(error: BadInput) -> click.UsageError:
    return click.UsageError(error.sentence + ("" if error.sentence.endswith("?") else "."))
