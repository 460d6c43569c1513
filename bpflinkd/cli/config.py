"""The commands that read what files ask for, without a daemon: config show, config check."""

# ruff: noqa: PLC0415  # what reads the files is imported when a command runs

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from bpflinkd.cli.group import Command, Group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bpflinkd.cli.settings import Settings
    from bpflinkd.config.grants import GrantsDirectory
    from bpflinkd.config.links import LinksDirectory
    from bpflinkd.core.declared import Refused

_REFUSED: Final = 1

_HELP = """Look at the files that declare links and give grants, as bpflinkd would. No daemon is needed.

They are *.toml in links.d and grants.d, in /usr/lib/bpflinkd and in /etc/bpflinkd; a file in the latter takes
the place of one of the same name in the former.

\b
Examples:
  bpflinkctl config show
  bpflinkctl config check
"""
_SHOW_HELP = """Show what the files ask for: links, grants, and where each is written.

What is refused is told on standard error, and the exit code is 1.

\b
Examples:
  bpflinkctl config show
  bpflinkctl config show --json | jq -r '.links[] | select(.template) | .name'
  bpflinkctl config show --json | jq '.grants[] | select(.kernel_memory)'
"""
_CHECK_HELP = """Check the files, or FILE_OR_DIR: a sentence a fault, and exit code 1 if there is one.

Files outside of the directories that bpflinkd reads are drafts: it does not matter who owns them or can
write to them. What a draft is of, links or grants, is seen from what is in it.

\b
Examples:
  bpflinkctl config check
  bpflinkctl config check edge.toml
  bpflinkctl config check grants.d/tracing.toml
"""

_config_dir = click.option(
    "--config-dir",
    metavar="DIR",
    type=click.Path(),
    default="/etc/bpflinkd",
    show_default=True,
    help="Where links.d and grants.d are. Of another place than the default, nothing else is read.",
)


@click.command(
    "config",
    cls=Group,
    modules={"show": "config", "check": "config"},
    help=_HELP,
    short_help="Show or check what files declare and grant.",
)
def config_command() -> None:
    """See `_HELP`."""


@click.command("show", cls=Command, help=_SHOW_HELP, short_help="Show what the files ask for.")
@_config_dir
@click.pass_context
def show_command(context: click.Context, config_dir: str) -> None:
    """See `_SHOW_HELP`."""
    from bpflinkd.cli import config_documents as shapes
    from bpflinkd.config import grants, links

    settings: Settings = context.obj
    place = Path(config_dir)
    found = links.LinksDirectory(links.directories(place)).read()
    given = grants.GrantsDirectory(grants.directories(place)).read()
    refused = (*found.refused, *given.refused)
    output = settings.output()
    if output.json:
        output.document(
            {
                "links": [shapes.link_document(link) for link in found],
                "grants": [shapes.grant_document(grant) for grant in given.grants],
                "faults": _faults(refused),
            }
        )
    else:
        if found.links or found.templates or not output.terminal:
            output.table(shapes.LINK_COLUMNS, [shapes.link_row(link) for link in found])
        else:
            output.line("No links are declared.")
        if given.grants:
            output.line()
            output.table(shapes.GRANT_COLUMNS, [shapes.grant_row(grant) for grant in given.grants])
        for each in refused:
            _say(each.sentence)
    if refused:
        context.exit(_REFUSED)


@click.command("check", cls=Command, help=_CHECK_HELP, short_help="Check the files for faults.")
@click.argument("places", metavar="[FILE_OR_DIR]...", nargs=-1, type=click.Path())
@_config_dir
@click.pass_context
def check_command(context: click.Context, places: Sequence[str], config_dir: str) -> None:
    """See `_CHECK_HELP`."""
    settings: Settings = context.obj
    link_files, grant_files = _files(places, config_dir)
    found, given = link_files.read(), grant_files.read()
    links, templates, grants = len(found.links), len(found.templates), len(given.grants)
    files = len(link_files.accepted) + len(grant_files.accepted)
    refused = (*found.refused, *given.refused)
    output = settings.output()
    if output.json:
        counts = {"links": links, "templates": templates, "grants": grants, "files": files}
        output.document({**counts, "faults": _faults(refused)})
    elif refused:
        for each in refused:
            output.line(each.sentence)
    else:
        output.line(
            f"{_count(links, 'link')}, {_count(templates, 'template')}, {_count(grants, 'grant')} "
            f"in {_count(files, 'file')}, no faults"
        )
    if refused:
        context.exit(_REFUSED)


def _files(places: Sequence[str], config_dir: str) -> tuple[LinksDirectory, GrantsDirectory]:
    """What is to be checked. Rights count where the daemon reads."""
    from bpflinkd.config import grants, links
    from bpflinkd.config.trust import ROOT

    of_links, of_grants = (kind.directories(Path(config_dir)) for kind in (links, grants))
    if not places:
        return links.LinksDirectory(of_links), grants.GrantsDirectory(of_grants)
    paths = [Path(os.path.abspath(place)) for place in places]
    roots = [Path(os.path.abspath(directory)) for directory in (*of_links, *of_grants)]
    ours = all(any(path.is_relative_to(root) for root in roots) for path in paths)
    trusted = ROOT if ours else None
    granting = {path for path in paths if _holds_grants(path)}
    directories = [path for path in paths if path.is_dir()]
    files = [path for path in paths if path not in directories]
    return (
        links.LinksDirectory(
            [path for path in directories if path not in granting],
            [path for path in files if path not in granting],
            trusted=trusted,
        ),
        grants.GrantsDirectory(
            [path for path in directories if path in granting],
            [path for path in files if path in granting],
            trusted=trusted,
        ),
    )


def _holds_grants(path: Path) -> bool:
    """Whether a file or directory is for grants.d: by where it is, or else by what is in it."""
    from bpflinkd.config import pieces
    from bpflinkd.config.directories import MAX_FILE
    from bpflinkd.config.grant_table import GRANTS
    from bpflinkd.config.link_table import LINKS

    above = (path.name, path.parent.name)
    if GRANTS.directory in above or LINKS.directory in above:
        return GRANTS.directory in above
    if path.is_dir():
        return any(_holds_grants(file) for file in path.glob("*.toml") if not file.is_dir())
    try:
        # What is not a file is refused when it is read.
        text = path.read_bytes()[:MAX_FILE].decode(errors="replace") if path.is_file() else ""
    except OSError:
        text = ""
    return bool(pieces.header(GRANTS.word).search(text)) and not pieces.header(LINKS.word).search(text)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _say(sentence: str) -> None:
    from bpflinkd.cli.words import clean

    click.echo(f"bpflinkctl: {clean(sentence)}", err=True)


def _faults(refused: Sequence[Refused]) -> list[dict[str, str]]:
    return [{"file": fault.file, "sentence": fault.sentence} for fault in refused]
