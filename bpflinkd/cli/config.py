"""The commands that read what files declare, without a daemon: config show, config check."""

# ruff: noqa: PLC0415  # what reads the files is imported when a command runs

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from bpflinkd.cli.group import Command, Group
from bpflinkd.cli.render import Column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bpflinkd.cli.settings import Settings
    from bpflinkd.config.links import LinksDirectory
    from bpflinkd.core.declared import AnyDeclaration, DeclaredProgram, Refused
    from bpflinkd.core.patterns import Pattern
    from bpflinkd.core.targets import WantedTarget

_COLUMNS: Final = (
    Column("NAME", cut="end"),
    Column("KIND"),
    Column("TARGET", cut="middle"),
    Column("PROGRAM", cut="end"),
    Column("POLICY"),
    Column("DECLARED AT", cut="middle"),
)
_REFUSED: Final = 1

_HELP = """Look at the files that declare links, as bpflinkd would read them. No daemon is needed.

They are *.toml in /usr/lib/bpflinkd/links.d and /etc/bpflinkd/links.d; a file in the latter takes the place
of one of the same name in the former.

\b
Examples:
  bpflinkctl config show
  bpflinkctl config check
"""
_SHOW_HELP = """Show what the files ask for: name, target, program, policy, and where that is written.

What is refused is told on standard error, and the exit code is 1.

\b
Examples:
  bpflinkctl config show
  bpflinkctl config show --json | jq -r '.links[] | select(.template) | .name'
"""
_CHECK_HELP = """Check the files, or FILE_OR_DIR: a sentence a fault, and exit code 1 if there is one.

Files outside of the directories that bpflinkd reads are drafts: it does not matter who owns them or can
write to them.

\b
Examples:
  bpflinkctl config check
  bpflinkctl config check edge.toml
"""

_config_dir = click.option(
    "--config-dir",
    metavar="DIR",
    type=click.Path(),
    default="/etc/bpflinkd",
    show_default=True,
    help="Where links.d is. Of another place than the default, nothing else is read.",
)


@click.command(
    "config",
    cls=Group,
    modules={"show": "config", "check": "config"},
    help=_HELP,
    short_help="Show or check what files declare.",
)
def config_command() -> None:
    """See `_HELP`."""


@click.command("show", cls=Command, help=_SHOW_HELP, short_help="Show what the files ask for.")
@_config_dir
@click.pass_context
def show_command(context: click.Context, config_dir: str) -> None:
    """See `_SHOW_HELP`."""
    from bpflinkd.config.links import LinksDirectory, directories

    settings: Settings = context.obj
    found = LinksDirectory(directories(Path(config_dir))).read()
    output = settings.output()
    if output.json:
        links = [_document(link) for link in found]
        output.document({"links": links, "faults": _faults(found.refused)})
    else:
        if found.links or found.templates or not output.terminal:
            output.table(_COLUMNS, [_row(link) for link in found])
        else:
            output.line("No links are declared.")
        for refused in found.refused:
            _say(refused.sentence)
    if found.refused:
        context.exit(_REFUSED)


@click.command("check", cls=Command, help=_CHECK_HELP, short_help="Check the files for faults.")
@click.argument("places", metavar="[FILE_OR_DIR]...", nargs=-1, type=click.Path())
@_config_dir
@click.pass_context
def check_command(context: click.Context, places: Sequence[str], config_dir: str) -> None:
    """See `_CHECK_HELP`."""
    settings: Settings = context.obj
    files = _files(places, config_dir)
    found = files.read()
    templates, links = len(found.templates), len(found.links)
    output = settings.output()
    if output.json:
        counts = {"links": links, "templates": templates, "files": len(files.accepted)}
        output.document({**counts, "faults": _faults(found.refused)})
    elif found.refused:
        for refused in found.refused:
            output.line(refused.sentence)
    else:
        output.line(
            f"{_count(links, 'link')}, {_count(templates, 'template')} "
            f"in {_count(len(files.accepted), 'file')}, no faults"
        )
    if found.refused:
        context.exit(_REFUSED)


def _files(places: Sequence[str], config_dir: str) -> LinksDirectory:
    """What is to be checked. Rights count where the daemon reads."""
    from bpflinkd.config.links import LinksDirectory, directories
    from bpflinkd.config.trust import ROOT

    read = directories(Path(config_dir))
    if not places:
        return LinksDirectory(read)
    paths = [Path(os.path.abspath(place)) for place in places]
    roots = [Path(os.path.abspath(directory)) for directory in read]
    ours = all(any(path.is_relative_to(root) for root in roots) for path in paths)
    return LinksDirectory(
        [path for path in paths if path.is_dir()],
        [path for path in paths if not path.is_dir()],
        trusted=ROOT if ours else None,
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _say(sentence: str) -> None:
    from bpflinkd.cli.words import clean

    click.echo(f"bpflinkctl: {clean(sentence)}", err=True)


def _faults(refused: Sequence[Refused]) -> list[dict[str, str]]:
    return [{"file": fault.file, "sentence": fault.sentence} for fault in refused]


def _is_template(link: AnyDeclaration) -> bool:
    from bpflinkd.core.patterns import CgroupPattern, InterfacePattern

    return isinstance(link.target, InterfacePattern | CgroupPattern)


def _row(link: AnyDeclaration) -> list[str]:
    return [
        link.name,
        "template" if _is_template(link) else "link",
        str(link.target),
        link.asked,
        str(link.policy),
        link.place,
    ]


def _document(link: AnyDeclaration) -> dict[str, Any]:
    from bpflinkd.cli.words import user_name

    kind, value, name = _program(link.program)
    uid = link.owner.uid
    return {
        "name": link.name,
        "template": _is_template(link),
        "target": _target(link.target),
        "program": {kind: value, "name": name},
        "policy": link.policy,
        "lifetime": link.lifetime,
        "owner": {"uid": uid, "user": user_name(uid)},
        "file": link.file,
        "line": link.line,
    }


def _target(target: WantedTarget | Pattern) -> dict[str, Any]:
    """As in the document of a link; of a template with patterns, and with all that is asked of a match."""
    from bpflinkd.core import targets
    from bpflinkd.core.patterns import CgroupPattern, InterfacePattern

    match target:
        case InterfacePattern(name=name, mode=mode):
            more = {"altname": target.altname, "mac": target.mac, "driver": target.driver}
            return {"xdp": name, "mode": mode, **{key: value for key, value in more.items() if value}}
        case targets.XdpTarget(interface=interface, mode=mode):
            return {"xdp": interface, "mode": mode}
        case targets.CgroupTarget(path=path, attach_type=kind) | CgroupPattern(path=path, attach_type=kind):
            return {"cgroup": path, "attach_type": kind.name if kind else None}
        case targets.CgroupPlace(path=path):
            return {"cgroup": path, "attach_type": None}
        case targets.KprobeTarget(kind=kprobe, symbol=symbol, offset=offset, cookie=cookie):
            place = {} if target.at_return else {"offset": offset}
            return {kprobe: symbol, **place, "cookie": cookie}
        case targets.KprobeMultiTarget(kind=kprobe, pattern=pattern, cookie=cookie):
            return {kprobe: pattern, "cookie": cookie}


def _program(program: DeclaredProgram) -> tuple[str, str, str | None]:
    """Kind, value, and the name of the program in it where it was given."""
    from bpflinkd.core import sources

    match program:
        case sources.ObjectImage(sha256=sha256, program=name):
            return "object", sha256, name
        case sources.SourceText(sha256=sha256, program=name):
            return "source", sha256, name
        case sources.KeptObject(sha256=sha256, program=name):
            return "kept", sha256, name
        case sources.KeptSource(sha256=sha256, program=name):
            return "kept-source", sha256, name
        case sources.PinnedProgram(path=path):
            return "pin", path, None
        case sources.Builtin(name=name):
            return "builtin", name, None
