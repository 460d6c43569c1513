"""The command that swaps many links together, as a file says."""

# ruff: noqa: PLC0415  # what reads the file is imported when a command runs

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from bpflinkd.cli.failures import InputError
from bpflinkd.cli.group import Command
from bpflinkd.cli.kinds import Duration
from bpflinkd.cli.options import force, message
from bpflinkd.cli.render import Column
from bpflinkd.cli.settings import Settings
from bpflinkd.client import Client
from bpflinkd.client.programs import Builtin, CSource, Generation, Object, Pinned, Program, ProgramId

if TYPE_CHECKING:
    from bpflinkd.client.swaps import Swap, Swapped
    from bpflinkd.config.swap_table import WantedSwap
    from bpflinkd.config.swaps import Placed

_HELP = """Swap the programs of all links that FILE names, or of none.

Everything is loaded and checked first, then swapped back to back, and swapped back if one fails. FILE is
TOML: a [[swap]] for each program, with the link or links that are to run it. Paths begin where FILE is.

\b
  [[swap]]
  link = "edge-filter"
  program = { object = "filter-v2.bpf.o", constants = { limit = 1000 } }
  expect = 3
  maps = { drops = "fresh" }
  [[swap]]
  links = ["web-count", "db-count"]
  program = { builtin = "pass" }    # or source, pin, id, generation

\b
Examples:
  bpflinkctl apply release-42.toml --dry-run
  bpflinkctl apply release-42.toml --confirm-within 60s -m "release 42"
"""
_COLUMNS: Final = (Column("NAME"), Column("FROM", right=True), Column("TO", right=True), Column("PROGRAM"))
_MOST_NAMED: Final = 20


@click.command("apply", cls=Command, help=_HELP, short_help="Swap many links together, as a file says.")
@click.argument("file", type=click.Path())
@click.option("--dry-run", is_flag=True, help="Load and check everything, show the plan, change nothing.")
@click.option(
    "--confirm-within",
    metavar="TIME",
    type=Duration(),
    help="All go back by themselves but those that `bpflinkctl confirm` names in time.",
)
@message
@force
@click.pass_obj
def apply_command(settings: Settings, /, file: str, **given: Any) -> None:
    """See `_HELP`."""
    swaps = _swaps(Path(file))
    client = settings.client(doing=f"bpflinkd loads and checks {len(swaps)} programs")
    before = _generations(client)
    swapped = client.replace_many(
        swaps,
        confirm_within=given["confirm_within"],
        message=given["message"],
        force=given["force"],
        dry_run=given["dry_run"],
    )
    _tell(settings, swaps, before, swapped, dry_run=given["dry_run"], within=given["confirm_within"])


def _swaps(file: Path) -> "list[Swap]":
    """What the file asks for. `InputError` with all that is wrong with it."""
    from bpflinkd.config import swaps

    found, faults = swaps.read(file)
    if len(faults) == 1:
        raise InputError(f"{faults[0]}; no link was changed")
    if faults:
        raise InputError(f"{file} has {len(faults)} faults; no link was changed", "\n".join(faults))
    return [swap for placed in found for swap in _each(placed, file)]


def _each(placed: "Placed", file: Path) -> "list[Swap]":
    from bpflinkd.client.swaps import Swap

    wanted = placed.wanted
    program = _program(wanted, file.parent)
    where = f"{file.name[-100:]}:{placed.line}"
    return [
        Swap(name, program, wanted.expect, dict(wanted.maps), wanted.fresh_maps, where)
        for name in wanted.links
    ]


def _program(wanted: "WantedSwap", directory: Path) -> Program:
    match wanted.kind, wanted.value:
        case "object", str(path):
            return Object(os.path.join(directory, path), wanted.name, dict(wanted.constants) or None)
        case "source", str(path):
            return CSource(os.path.join(directory, path), wanted.name)
        case "pin", str(path):
            return Pinned(path)
        case "id", int(number):
            return ProgramId(number)
        case "generation", int(number):
            return Generation(number)
        case _:
            return Builtin(str(wanted.value))


def _generations(client: Client) -> dict[str, int]:
    """The present generation of each link."""
    return {row.name: row.generation for row in client.rows()}


def _tell(
    settings: Settings,
    swaps: "list[Swap]",
    before: dict[str, int],
    swapped: "Swapped",
    *,
    dry_run: bool,
    within: float | None,
) -> None:
    output = settings.output()
    programs = {swap.name: _described(swap.program) for swap in swaps}
    if output.json:
        rows = [
            {"name": name, "from": before.get(name), "to": number, "program": programs[name]}
            for name, number in swapped.generations
        ]
        output.document({"dry_run": dry_run, "skew_ns": swapped.skew_ns, "links": rows})
        return
    output.table(
        _COLUMNS,
        [[name, str(before.get(name, "-")), str(to), programs[name]] for name, to in swapped.generations],
    )
    count = len(swapped.generations)
    links = f"{count} link" if count == 1 else f"{count} links"
    if dry_run:
        output.line(f"dry run: {links} would be swapped; everything loads and fits, and nothing was changed")
        return
    output.line(f"{links} swapped together, the last {swapped.skew_ns / 1000:.0f} us after the first")
    if within is not None:
        names = [name for name, _ in swapped.generations]
        shown = " ".join(names[:_MOST_NAMED]) + (" ..." if count > _MOST_NAMED else "")
        output.line(
            f"all go back in {within:g} s, but for those that are kept by: bpflinkctl confirm {shown}"
        )


def _described(program: Program) -> str:
    match program:
        case Object(file, name) | CSource(file, name):
            place = os.path.basename(os.fspath(file)) if not isinstance(file, bytes) else "object"
            place = place if isinstance(place, str) else os.fsdecode(place)
            return f"{place} {name}" if name else place
        case Pinned(path):
            return f"pin {path}"
        case ProgramId(number):
            return f"id {number}"
        case Generation(number):
            return f"generation {number}"
        case Builtin(name):
            return name
        case _:
            return "a program"
